"""On how many slices a run may train, and how many microbatches it then needs."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.elastic import microbatches_on, on_slices, usable_slices, wanted_slices
from halcyon_api.mesh import run_mesh
from halcyon_api.reading import parse_run
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import document, minimal_spec


def spec(slices: int, batch: int, elastic: dict[str, Any] | None = None, **trainer: Any) -> TrainingRunSpec:
    """A run on slices of two devices."""
    sizes = {"steps": 10, "batchSize": batch, "sequenceLength": 32, **trainer}
    recovery = {"elastic": elastic} if elastic is not None else {}
    return minimal_spec(spec__accelerator__slices=slices, spec__trainer=sizes, spec__recovery=recovery)


@pytest.mark.parametrize(
    ("slices", "batch", "elastic", "expected"),
    [
        (4, 64, None, {4: 1}),
        (4, 64, {"minSlices": 1}, {1: 4, 2: 2, 4: 1}),
        (4, 48, {"minSlices": 1}, {1: 4, 2: 2, 3: 2, 4: 1}),  # 6 rows on each device with 4 slices, so 4 rows with 3
        (3, 12, {"minSlices": 2}, {2: 3, 3: 1}),  # 3 rows on each device would be one too many
        (2, 64, {"minSlices": 1, "maxSlices": 4}, {1: 2, 2: 1, 4: 1}),
        (2, 4, {"minSlices": 1}, {1: 2, 2: 1}),
    ],
)
def test_fewer_slices_train_the_same_batch_in_the_same_memory(
    slices: int, batch: int, elastic: dict[str, Any] | None, expected: dict[int, int]
) -> None:
    found = spec(slices, batch, elastic)
    assert {number: microbatches_on(found, number) for number in usable_slices(found)} == expected
    assert find_problems(found) == ()
    for number in expected:
        sized = on_slices(found, number)
        assert find_problems(sized) == ()
        mesh = run_mesh(sized)
        assert mesh.replica == number
        rows = batch / mesh.data_parallelism / sized.trainer.microbatches
        assert rows == int(rows) <= batch / (slices * 2)


def test_microbatches_that_the_user_asked_for_are_kept() -> None:
    found = spec(4, 64, {"minSlices": 1}, microbatches=2)
    assert [microbatches_on(found, number) for number in (1, 2, 4)] == [8, 4, 2]


def test_usable_slices_divide_the_batches_of_all_stages() -> None:
    found = spec(4, 64, {"minSlices": 1}, batchSchedule=[{"fromStep": 5, "batchSize": 24}])
    assert usable_slices(found) == (1, 2, 4)
    assert microbatches_on(found, 2) == 2


def test_an_attempt_has_one_size_and_reads_back_as_written() -> None:
    found = spec(4, 64, {"minSlices": 1})
    sized = on_slices(found, 2)
    assert (sized.accelerator.slices, sized.trainer.microbatches, sized.recovery.elastic) == (2, 2, None)
    assert parse_run(document() | {"spec": sized.document()}).spec == sized
    assert on_slices(found, 4) is found


def test_a_run_wants_max_slices_or_else_its_slices() -> None:
    assert wanted_slices(spec(2, 64)) == 2
    assert wanted_slices(spec(2, 64, {"minSlices": 1})) == 2
    assert wanted_slices(spec(2, 64, {"minSlices": 1, "maxSlices": 8})) == 8


@pytest.mark.parametrize(
    ("slices", "elastic", "mend"),
    [
        (2, {"minSlices": 3}, "accelerator.slices must lie between"),
        (4, {"minSlices": 1, "maxSlices": 2}, "accelerator.slices must lie between"),
        (2, {"minSlices": 3, "maxSlices": 2}, "minSlices must not be greater than maxSlices"),
        (2, {}, "required, and not there"),
    ],
)
def test_contradictory_bounds_are_rejected(slices: int, elastic: dict[str, Any], mend: str) -> None:
    with pytest.raises(InvalidRun, match=mend):
        spec(slices, 64, elastic)


def test_a_fixed_replica_axis_cannot_be_elastic() -> None:
    with pytest.raises(InvalidRun, match=r"leave mesh\.dcn\.replica out"):
        parse_run(document(spec__mesh={"dcn": {"replica": 2}}, spec__recovery={"elastic": {"minSlices": 1}}))


def test_a_bound_that_does_not_divide_the_batch_is_reported_with_usable_numbers() -> None:
    (problem,) = find_problems(spec(4, 64, {"minSlices": 3}))
    assert problem.field == "spec.recovery.elastic.minSlices"
    assert "from 3 to 4 these can be used: 4" in problem.message
