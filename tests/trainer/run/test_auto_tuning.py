"""`microbatches: auto` and `remat: auto`: the least of both that fits, once for a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.host.errors import BadConfiguration
from halcyon.run import auto_tuning
from halcyon.run.auto_tuning import (
    Choice,
    choose,
    chosen,
    is_automatic,
    least_fitting,
    traced_step,
    with_choice,
    without_choice,
)
from halcyon.step.hlo.work import Rates
from halcyon_api.mesh import run_mesh
from halcyon_api.reading import parse_run
from halcyon_api.spec.trainer import AUTOMATIC_OFFLOAD, AUTOMATIC_REMAT, Remat
from halcyon_api.training_run import TrainingRunSpec
from tests.api.documents import document
from tests.trainer.support.meshes import mesh_of

VOCABULARY, ROWS, LENGTH = 64, 16, 32
POSSIBLE = (1, 2, 4, 8)


def spec_of(
    *, microbatches: Any = "auto", remat: str = "auto", offload: str = "none", **changes: Any
) -> TrainingRunSpec:
    run = document(
        spec__accelerator={"type": "cpu", "topology": "1x2", "slices": 1},
        spec__model__numHiddenLayers=8,
        spec__trainer={
            "steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": microbatches, "remat": remat,
            "offload": offload,
        },
        **changes,
    )  # fmt: skip
    return parse_run(run).spec


class Steps:
    """Steps whose fit is known, and their time if it is given."""

    def __init__(self, fit: Callable[[Choice], bool], seconds: Callable[[Choice], float] | None = None) -> None:
        self.fit, self._seconds, self.asked = fit, seconds, list[Choice]()

    def fits(self, one: Choice) -> bool:
        self.asked.append(one)
        return self.fit(one)

    def may_be_faster(self, one: Choice, best: Choice) -> bool:
        return self._seconds is not None and self._seconds(one) < self._seconds(best)

    is_faster = may_be_faster

    @staticmethod
    def all(counts: Iterable[int], policies: Iterable[Remat]) -> list[Choice]:
        return [Choice(count, policy) for count in counts for policy in policies]


@pytest.mark.parametrize("least", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_the_search_finds_the_first_that_fits_and_asks_for_few(least: int) -> None:
    asked: list[int] = []

    def fits(candidate: int) -> bool:
        asked.append(candidate)
        return candidate >= least

    assert least_fitting(range(1, 9), fits) == (least if least < 9 else None)
    assert len(asked) <= 5
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize(
    ("bytes_of", "choice"),
    [
        ({"none": 4, "dots": 3, "attention": 2, "full": 1}, Choice(1, "none")),
        ({"none": 40, "dots": 3, "attention": 2, "full": 1}, Choice(8, "none")),
        ({"none": 400, "dots": 15, "attention": 2, "full": 1}, Choice(2, "dots")),
        ({"none": 400, "dots": 300, "attention": 200, "full": 30}, Choice(4, "full")),
        ({"none": 400, "dots": 300, "attention": 200, "full": 100}, None),
    ],
)
def test_more_microbatches_come_before_more_recomputation(bytes_of: dict[str, int], choice: Choice | None) -> None:
    steps = Steps(lambda one: bytes_of[one.remat] / one.microbatches <= 8)
    assert choose(POSSIBLE, AUTOMATIC_REMAT, ("none",), steps) == choice


@pytest.mark.parametrize(
    ("gather", "choice"),
    [(0, Choice(8, "none")), (1, Choice(4, "dots")), (15, Choice(2, "attention")), (30, Choice(1, "full"))],
)
def test_recomputation_comes_first_where_it_takes_less_time_than_gathers(gather: float, choice: Choice) -> None:
    bytes_of = {"none": 64, "dots": 32, "attention": 16, "full": 8}
    again = {"none": 0, "dots": 1, "attention": 30, "full": 50}

    def seconds(one: Choice) -> float:
        return 100 + gather * one.microbatches + again[one.remat]

    steps = Steps(lambda one: bytes_of[one.remat] / one.microbatches <= 8, seconds)
    assert choose(POSSIBLE, AUTOMATIC_REMAT, ("none",), steps) == choice
    fitting = [one for one in steps.all(POSSIBLE, AUTOMATIC_REMAT) if steps.fit(one)]
    assert seconds(choice) == min(map(seconds, fitting))
    assert all(seconds(one) < seconds(Choice(8, "none")) for one in steps.asked if one.remat != "none")


@pytest.mark.parametrize(
    ("state", "choice"),
    [(0, Choice(8, "none")), (4, Choice(8, "dots")), (7, Choice(8, "none", "optimizer")), (9, None)],
)
def test_the_memory_of_the_host_comes_last(state: int, choice: Choice | None) -> None:
    """Here a step needs 40 or 20 bytes by microbatches, and a state that may be in the host's memory but for 2 bytes of
    it.
    """

    def fits(one: Choice) -> bool:
        held = state if one.offload == "none" else max(0, state - 6)
        return held + {"none": 40, "dots": 20}[one.remat] / one.microbatches <= 7 and state < 9

    assert choose(POSSIBLE, ("none", "dots"), AUTOMATIC_OFFLOAD, Steps(fits)) == choice


def test_a_run_that_does_not_fit_is_refused_after_two_candidates_for_each_place_of_its_state() -> None:
    """The candidate with all microbatches and all recomputation needs least; where it does not fit, no other is asked."""
    steps = Steps(lambda one: False)
    assert choose(POSSIBLE, AUTOMATIC_REMAT, AUTOMATIC_OFFLOAD, steps) is None
    assert steps.asked == [
        Choice(count, remat, offload)
        for offload in AUTOMATIC_OFFLOAD
        for count, remat in ((1, "none"), (8, "none"), (8, "full"))
    ]


def test_an_automatic_offload_is_replaced_also_by_none() -> None:
    assert with_choice(spec_of(offload="auto"), Choice(2, "dots")).trainer.offload == "none"
    assert Choice.of(Choice(2, "dots", "optimizer").document()) == Choice(2, "dots", "optimizer")
    assert Choice(2, "dots").document() == {"microbatches": 2, "remat": "dots"}


@pytest.mark.slow
def test_a_run_takes_the_least_microbatches_whose_step_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, mesh = spec_of(remat="none"), mesh_of(fsdp=2)

    @functools.cache
    def needs(count: int) -> float:
        traced = traced_step(with_choice(spec, Choice(count, "none")), VOCABULARY, mesh)
        found = traced.compiled()
        assert found is not None
        assert found.needed_bytes is not None
        assert 0 < traced.least_bytes < found.needed_bytes
        return found.needed_bytes

    assert needs(1) > needs(2)

    def known(tried: TrainingRunSpec, *_: Any) -> Any:  # compiles each step once
        step = SimpleNamespace(needed_bytes=needs(tried.trainer.microbatches))
        return SimpleNamespace(least_bytes=0, compiled=lambda: step)

    monkeypatch.setattr(auto_tuning, "traced_step", known)
    between = int((needs(1) + needs(2)) / 2 / 0.92)
    for memory, count in ((between, 2), (100 * between, 1)):
        choice, step = chosen(spec, VOCABULARY, mesh, memory)
        assert step is not None
        assert (choice, step.needed_bytes) == (Choice(count, "none"), needs(count))


@pytest.mark.slow
@pytest.mark.parametrize(("links", "choice"), [(1e12, Choice(8, "none")), (1e6, Choice(1, "attention"))])
def test_a_run_computes_again_where_its_links_are_slow(links: float, choice: Choice) -> None:
    """One microbatch fits if its blocks are computed again, and eight fit as they are."""
    spec, mesh = spec_of(), mesh_of(fsdp=2)
    step = traced_step(with_choice(spec, Choice(1, "attention")), VOCABULARY, mesh).compiled()
    assert step is not None
    assert step.needed_bytes is not None
    memory = int(step.needed_bytes / 0.92) + 1
    answers: list[bool] = []

    def kept(answer: bool) -> bool:
        answers.append(answer)
        return answer

    found, step = chosen(spec, VOCABULARY, mesh, memory, Rates(flops=1e11, memory=1e12, links=links), kept)
    assert found == choice
    assert step is not None
    assert step.program.microbatches == choice.microbatches
    assert step.needed_bytes is not None
    assert step.needed_bytes <= 0.92 * memory
    # Another process, with other times, decides as process 0 does.
    later = iter(answers)
    assert chosen(spec, VOCABULARY, mesh, memory, None, lambda _: next(later))[0] == choice
    assert list(later) == []


def test_a_run_that_fits_nowhere_is_rejected_with_its_need() -> None:
    sentence = (
        r"^spec.trainer.microbatches: a step with 4 microbatches and remat full needs at least ([\d.]+ .B), "
        r"and it may use 920 bytes of the 1.0 kB of a device: [\d.]+ .B are missing; give"
    )
    with pytest.raises(BadConfiguration, match=sentence):
        chosen(spec_of(microbatches=4, remat="full"), VOCABULARY, mesh_of(fsdp=2), 1000)
    said: list[str] = []
    with pytest.raises(BadConfiguration):
        chosen(spec_of(), VOCABULARY, mesh_of(fsdp=2), 1000, doing=said.append)
    assert said[0] == "microbatches 1, remat none; left: remat dots, attention, full"
    assert said[-1] == "microbatches 8, remat full"


def test_a_device_of_unknown_memory_gets_one_microbatch_and_no_recomputation() -> None:
    assert chosen(spec_of(), VOCABULARY, mesh_of(fsdp=2), None) == (Choice(1, "none"), None)
    assert chosen(spec_of(microbatches=4), VOCABULARY, mesh_of(fsdp=2), None) == (Choice(4, "none"), None)


def test_the_choice_fills_only_automatic_fields() -> None:
    assert is_automatic(spec_of())
    assert not is_automatic(spec_of(microbatches=2, remat="dots"))
    both = with_choice(spec_of(), Choice(4, "full"))
    assert (both.trainer.microbatches, both.trainer.remat) == (4, "full")
    one = with_choice(spec_of(microbatches=2), Choice(4, "full"))
    assert (one.trainer.microbatches, one.trainer.remat) == (2, "full")
    alone = without_choice(spec_of(), run_mesh(spec_of()))
    assert (alone.trainer.microbatches, alone.trainer.remat) == (ROWS // 2, "none")


def test_the_choice_is_no_part_of_the_fingerprints() -> None:
    assert fingerprints(spec_of(), data={}) == fingerprints(with_choice(spec_of(), Choice(4, "full")), data={})
