"""Two runs are identical if every loss is bitwise equal; every difference is named."""

import struct

import pytest

from halcyon_demo.comparison import bits, compare, losses
from tests.demo.samples import RUN, line, steps

OTHER = "undisturbed"


def test_a_run_that_repeats_steps_exactly_is_identical() -> None:
    disturbed = losses([*steps(1, 12), *steps(11, 20, (1, 1))], RUN)
    result = compare(disturbed, losses(steps(1, 20, run=OTHER), OTHER), 20)
    assert result.identical
    assert (result.steps, result.repeated) == (20, 2)
    assert [(group.first, group.last, group.repeated, group.equal, group.count) for group in result.groups] == [
        (1, 12, 0, 12, 12),
        (11, 20, 2, 10, 10),
    ]


def test_one_bit_is_a_difference() -> None:
    near = struct.unpack("<f", struct.pack("<I", struct.unpack("<I", struct.pack("<f", 5.0 / 7))[0] ^ 1))[0]
    disturbed = [*losses(steps(1, 10), RUN), *losses([line("step", 30, (1, 1), step=7, loss=near)], RUN)]
    result = compare(disturbed, losses(steps(1, 10, run=OTHER), OTHER), 10)
    assert not result.identical
    assert result.differences == (
        f"step 7 in process group 1.1: {near.hex()}, but the undisturbed run has {(5.0 / 7).hex()}",
    )
    assert [(group.equal, group.count) for group in result.groups] == [(10, 10), (0, 1)]


def test_losses_that_an_audit_has_rejected_are_not_compared() -> None:
    wrong = [line("step", 13.0, step=step, loss=9.0) for step in (11, 12)]
    lines = [*steps(1, 10), *wrong, line("corrupted", 14.0, step=12, processes=[1], message="step 12: copies differ")]
    result = compare(losses([*lines, *steps(11, 20, (1, 1))], RUN), losses(steps(1, 20), RUN), 20)
    assert result.identical
    assert [(group.first, group.last, group.count) for group in result.groups] == [(1, 10, 10), (11, 20, 10)]
    kept = losses([*lines, *steps(9, 20, (1, 1))], RUN)
    assert [loss.step for loss in kept if loss.group == (1, 0, 0)] == list(range(1, 9)), "the run went back to step 8"
    unconfirmed = compare(losses([*steps(1, 10), *wrong, *steps(11, 20, (1, 1))], RUN), losses(steps(1, 20), RUN), 20)
    assert len(unconfirmed.differences) == 2


@pytest.mark.parametrize("shortened", ["disturbed", "undisturbed"])
def test_a_step_that_is_missing_is_a_difference(shortened: str) -> None:
    whole, short = losses(steps(1, 10), RUN), losses(steps(1, 9), RUN)
    result = compare(short, whole, 10) if shortened == "disturbed" else compare(whole, short, 10)
    assert result.differences == (f"the log of the {shortened} run lacks 1 of 10 steps, the first is step 10",)


def test_the_reference_must_not_have_been_disturbed() -> None:
    twice = [*losses(steps(1, 10), RUN), *losses(steps(10, 10, (1, 1)), RUN)]
    assert (
        "the undisturbed run did some steps more than once"
        in compare(losses(steps(1, 10), RUN), twice, 10).differences[0]
    )


def test_no_runs_are_not_identical_runs() -> None:
    assert not compare([], [], 10).identical


def test_only_losses_of_the_run_count() -> None:
    lines = [*steps(1, 2), *steps(3, 4, run=OTHER), line("evaluation", 9, step=2, loss=1.0)]
    assert [loss.step for loss in losses(lines, RUN)] == [1, 2]


def test_bits_distinguish_values_that_compare_equal() -> None:
    assert bits(0.0) != bits(-0.0)
    assert bits("NaN") == bits("NaN")
    assert bits(1) == bits(1.0)
