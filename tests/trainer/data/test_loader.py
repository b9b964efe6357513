"""The loader makes the same rows on every mesh, each once, ahead of the loop, from any step on."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.data.dataset import Dataset
from halcyon.data.examples import Examples
from halcyon.data.loader import Loader
from halcyon.data.source_data import BatchRows
from halcyon_api.spec.trainer import BatchScheduleEntry
from tests.suite.limits import limit
from tests.trainer.data.corpus import distinct_tokens
from tests.trainer.support.batches import FIELDS, NO_SEGMENTS
from tests.trainer.support.meshes import mesh_of

MESHES = [
    (1, 1, 1, 1),
    (1, 1, 4, 1),
    (1, 4, 1, 1),
    (2, 1, 2, 1),
    (2, 1, 1, 2),
    (1, 1, 2, 2),
    (1, 1, 1, 8),
    (2, 2, 1, 2),
]
AXES = ("replica", "data", "fsdp", "tensor")
BATCH_BYTES = 16 * 8 * 4 * 3
"""Size of a batch of `watched`: 16 sequences of 8 positions."""


def batch_sharding(*sizes: int) -> NamedSharding:
    devices = np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return NamedSharding(Mesh(devices, AXES), PartitionSpec(None, ("replica", "data", "fsdp")))


class Watched:
    """A data set that records the steps and counts the rows it is asked for."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.schedule = dataset.schedule
        self.sequence_length = dataset.sequence_length
        self.steps: list[int] = []
        self.rows = 0
        self.changed = threading.Condition()
        self.broken_step: int | None = None
        self.held: threading.Event | None = None
        """All batches except the first wait for this event."""

    def train_rows(self, step: int) -> BatchRows:
        with self.changed:
            self.steps.append(step)
            self.changed.notify_all()
        if self.held is not None and step > 0:
            assert self.held.wait(limit(30))
        if step == self.broken_step:
            raise OSError("the disk is gone")
        return self._dataset.train_rows(step)

    def examples(self, rows: BatchRows) -> Examples:
        with self.changed:
            self.rows += len(rows)
        return self._dataset.examples(rows)

    def expected(self, step: int) -> Examples:
        return self._dataset.examples(self._dataset.train_rows(step))

    def wait_for_steps(self, *steps: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: set(steps) <= set(self.steps), limit(30)), self.steps


def watch(*, batch_size: int = 16, stages: Sequence[BatchScheduleEntry] = ()) -> Watched:
    return Watched(distinct_tokens(20_000, sequence_length=8, batch_size=batch_size, stages=stages))


@pytest.fixture
def watched() -> Watched:
    return watch()


def loader(dataset: object, sharding: NamedSharding, *, microbatches: int = 1, **options: object) -> Loader:
    return Loader(dataset, microbatches=microbatches, sharding=sharding, **({"fields": NO_SEGMENTS} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("microbatches", [1, 2, 4])
@pytest.mark.parametrize("mesh", MESHES)
def test_row_r_is_the_same_example_on_every_mesh(watched: Watched, mesh: tuple[int, ...], microbatches: int) -> None:
    with loader(watched, batch_sharding(*mesh), microbatches=microbatches, fields=FIELDS) as batches:
        for step in (0, 1, 2, 1000):
            batch = batches.batch(step)
            expected = watched.expected(step)
            for name in FIELDS:
                array = batch[name]
                assert array.shape == (microbatches, 16 // microbatches, 8)
                assert array.sharding.is_equivalent_to(batch_sharding(*mesh), 3)
                assert np.array_equal(np.asarray(array).reshape(16, 8), getattr(expected, name))
                for shard in array.addressable_shards:
                    assert np.array_equal(np.asarray(shard.data), np.asarray(array)[shard.index])


@pytest.mark.parametrize(
    ("mesh", "microbatches", "rows"), [((1, 1, 4, 1), 1, 12), ((2, 1, 2, 2), 2, 8), ((1, 1, 1, 1), 3, 4)]
)
def test_rows_without_weight_fill_the_devices(mesh: tuple[int, ...], microbatches: int, rows: int) -> None:
    watched = watch(batch_size=10)
    with loader(watched, batch_sharding(*mesh), microbatches=microbatches, fields=FIELDS, last_step=1) as batches:
        batch, expected = batches.batch(0), watched.expected(0)
    for name in FIELDS:
        assert batch[name].shape == (microbatches, rows, 8)
        assert np.array_equal(np.asarray(batch[name]).reshape(-1, 8)[:10], getattr(expected, name))
    assert not np.asarray(batch["weights"]).reshape(-1, 8)[10:].any()


@pytest.mark.parametrize(("fsdp", "expert", "context", "tensor"), [(1, 1, 8, 1), (2, 1, 2, 2), (1, 2, 2, 2)])
def test_each_device_gets_its_positions(watched: Watched, fsdp: int, expert: int, context: int, tensor: int) -> None:
    mesh = mesh_of(fsdp=fsdp, expert=expert, context=context, tensor=tensor)
    sharding = NamedSharding(mesh, PartitionSpec(None, ("replica", "data", "fsdp", "expert"), "context"))
    with loader(watched, sharding, microbatches=2, fields=FIELDS, last_step=1) as batches:
        batch, expected = batches.batch(0), watched.expected(0)
    for name in FIELDS:
        assert batch[name].sharding.is_equivalent_to(sharding, 3)
        assert {shard.data.shape[2] for shard in batch[name].addressable_shards} == {8 // context}
        assert np.array_equal(np.asarray(batch[name]).reshape(16, 8), getattr(expected, name))
    assert watched.rows == 16, "each row is made once for this process"


def test_segments_are_left_out_unless_requested(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 1, 1, 1)) as batches:
        assert "segments" not in batches.batch(0)


def test_batches_have_the_size_of_their_step() -> None:
    stages = [
        BatchScheduleEntry(from_step=2, batch_size=32),
        BatchScheduleEntry(from_step=4, sequence_length=4),
        BatchScheduleEntry(from_step=5, sequence_length=8, batch_size=16),
    ]
    watched = watch(stages=stages)
    with loader(watched, batch_sharding(1, 1, 4, 1), microbatches=2) as batches:
        for step, shape in enumerate([(2, 8, 8), (2, 8, 8), (2, 16, 8), (2, 16, 8), (2, 16, 4), (2, 8, 8)]):
            batch = batches.batch(step)
            assert batch["tokens"].shape == batch["targets"].shape == batch["weights"].shape == shape
            assert np.array_equal(np.asarray(batch["tokens"]).reshape(-1, shape[2]), watched.expected(step).tokens)


def test_rows_that_several_devices_share_are_made_once(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 2, 1, 4), last_step=1) as batches:
        batches.batch(0)
    assert watched.rows == 16


def test_the_first_batch_does_not_wait_for_later_batches(watched: Watched) -> None:
    """The first batch comes although all others are blocked.

    (Levanter requests 32 batches before the first comes: its issue #5382.)
    """
    watched.held = threading.Event()
    with loader(watched, batch_sharding(1, 1, 4, 1), depth=32, threads=4) as batches:
        batch = batches.batch(0)
        assert np.array_equal(np.asarray(batch["tokens"])[0], watched.expected(0).tokens)
        watched.wait_for_steps(1)
        watched.held.set()
        batches.batch(1)


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_the_number_of_batches_made_ahead_doubles_from_one_to_the_depth(watched: Watched, depth: int) -> None:
    with loader(watched, batch_sharding(1, 1, 1, 1), depth=depth) as batches:
        for step, ahead in enumerate((1, 2, 4, 8, 16)):
            batches.batch(step)
            made = range(step + 1 + min(ahead, depth))
            watched.wait_for_steps(*made)
            assert sorted(watched.steps) == list(made), "no batch is made further ahead, and none twice"


def test_batches_are_made_ahead_but_not_beyond_the_memory(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 1, 4, 1), memory_bytes=3 * BATCH_BYTES + 1) as batches:
        for step, ahead in enumerate((1, 2, 3, 3, 3)):
            batches.batch(step)
            watched.wait_for_steps(*range(step + 1 + ahead))
    assert sorted(watched.steps) == list(range(8))


def test_one_batch_is_made_ahead_however_little_memory_there_is(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 1, 1, 1), memory_bytes=1, fields=FIELDS) as batches:
        for step in range(4):
            batches.batch(step)
            watched.wait_for_steps(step + 1)
    assert sorted(watched.steps) == list(range(5))


def test_memory_is_counted_in_batches_of_the_coming_size() -> None:
    """The memory for eight batches of 16 sequences holds only one of 128, also in the step before the larger batches
    begin.
    """
    watched = watch(stages=[BatchScheduleEntry(from_step=6, batch_size=128)])
    with loader(watched, batch_sharding(1, 1, 1, 1), memory_bytes=8 * BATCH_BYTES) as batches:
        for step, end in enumerate((2, 4, 6, 6, 6, 7, 8, 9)):
            batches.batch(step)
            watched.wait_for_steps(*range(end))
            assert sorted(watched.steps) == list(range(end))


def test_nothing_is_made_ahead_after_the_last_step(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 1, 1, 1), last_step=2) as batches:
        batches.batch(0)
        batches.batch(1)
    assert watched.steps == [0, 1]


def test_any_step_may_follow_any_other(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 1, 4, 1), depth=2) as batches:
        for step, ahead in ((5, 1), (6, 2), (1_000_000_000, 2), (7, 2), (7, 2), (0, 2), (3, 2), (4, 2)):
            expected = watched.expected(step).tokens
            assert np.array_equal(np.asarray(batches.batch(step)["tokens"])[0], expected)
            assert set(batches._ahead) == set(range(step + 1, step + 1 + ahead)), (
                "batches made for other steps are dropped"
            )
    # A jump costs its own batch, at most the two batches made ahead, and two more that were made ahead during a wait.
    assert len(watched.steps) <= 8 + 3 * 6


def test_an_error_of_a_thread_is_raised_when_its_batch_is_requested(watched: Watched) -> None:
    watched.broken_step = 1
    with loader(watched, batch_sharding(1, 1, 1, 1)) as batches:
        batches.batch(0)
        with pytest.raises(OSError, match="the disk is gone"):
            batches.batch(1)
        batches.batch(2)


def test_the_wait_for_a_batch_is_measured(watched: Watched) -> None:
    times = iter([10.0, 10.5, 20.0, 20.25])
    with loader(watched, batch_sharding(1, 1, 1, 1), clock=lambda: next(times)) as batches:
        batches.batch(0)
        assert batches.last_wait_seconds == 0.5
        batches.batch(1)
        assert batches.last_wait_seconds == 0.25


def test_closing_ends_the_threads(watched: Watched) -> None:
    batches = loader(watched, batch_sharding(1, 1, 1, 1), threads=3)
    kept = batches.batch(0)
    batches.close()
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("halcyon-loader")]
    assert np.asarray(kept["tokens"]).shape == (1, 16, 8)


def test_a_batch_can_be_passed_to_a_jitted_function(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 1, 4, 1)) as batches:
        batch = batches.batch(0)
        total = jax.jit(lambda batch: batch["weights"].sum() + batch["tokens"][0, 0, 0])(batch)
        assert float(total) == float(np.asarray(batch["weights"]).sum()) + int(np.asarray(batch["tokens"])[0, 0, 0])
