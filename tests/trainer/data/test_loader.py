"""The same rows on every mesh, each made once, ahead of the loop, from any step on."""

from __future__ import annotations

import threading

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.data import Dataset, Examples, Loader
from tests.trainer.data.corpus import distinct_tokens

MESHES = [(1, 1, 1, 1), (1, 1, 4, 1), (1, 4, 1, 1), (2, 1, 2, 1), (2, 1, 1, 2), (1, 1, 2, 2), (1, 1, 1, 8), (2, 2, 1, 2)]
AXES = ("replica", "data", "fsdp", "tensor")


def batch_sharding(*sizes: int) -> NamedSharding:
    devices = np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return NamedSharding(Mesh(devices, AXES), PartitionSpec(None, ("replica", "data", "fsdp")))


class Watched:
    """A data set that notes what it is asked for."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.sequence_length = dataset.sequence_length
        self.steps: list[int] = []
        self.rows = 0
        self.changed = threading.Condition()
        self.broken_step: int | None = None

    def train_batch(self, step: int, batch_size: int) -> np.ndarray:
        with self.changed:
            self.steps.append(step)
            self.changed.notify_all()
        if step == self.broken_step:
            raise OSError("the disk is gone")
        return self._dataset.train_batch(step, batch_size)

    def examples(self, indices: np.ndarray) -> Examples:
        self.rows += len(indices)
        return self._dataset.examples(indices)

    def wait_for_steps(self, *steps: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: set(steps) <= set(self.steps), 30), self.steps


@pytest.fixture
def watched() -> Watched:
    return Watched(distinct_tokens(20_000, sequence_length=8))


def loader(dataset: object, sharding: NamedSharding, *, batch_size: int = 16, microbatches: int = 1, **options: object) -> Loader:
    return Loader(dataset, batch_size=batch_size, microbatches=microbatches, sharding=sharding, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("microbatches", [1, 2, 4])
@pytest.mark.parametrize(
    "mesh", [(1, 1, 1, 1), (1, 1, 4, 1), (1, 4, 1, 1), (2, 1, 2, 1), (2, 1, 1, 2), (1, 1, 2, 2), (1, 1, 1, 8), (2, 2, 1, 2)]
)
def test_row_r_is_the_same_example_on_every_mesh(watched: Watched, mesh: tuple[int, ...], microbatches: int) -> None:
    with loader(watched, batch_sharding(*mesh), microbatches=microbatches) as batches:
        for step in (0, 1, 2, 1000):
            batch = batches.batch(step)
            expected = watched._dataset.examples(watched._dataset.train_batch(step, 16))
            for name in ("tokens", "targets", "weights"):
                array = getattr(batch, name)
                assert array.shape == (microbatches, 16 // microbatches, 8)
                assert array.sharding.is_equivalent_to(batch_sharding(*mesh), 3)
                assert np.array_equal(np.asarray(array).reshape(16, 8), getattr(expected, name))
                for shard in array.addressable_shards:
                    assert np.array_equal(np.asarray(shard.data), np.asarray(array)[shard.index])


def test_rows_that_several_devices_share_are_made_once(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 2, 1, 4), last_step=1) as batches:
        batches.batch(0)
    assert watched.rows == 16


def test_batches_are_made_ahead_but_not_further_than_the_depth(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 1, 1, 1), depth=2) as batches:
        batches.batch(0)
        watched.wait_for_steps(0, 1, 2)
        batches.batch(1)
        watched.wait_for_steps(3)
    # The one thread is at its end, so nothing more can come.
    assert watched.steps == [0, 1, 2, 3]


def test_nothing_is_made_ahead_after_the_last_step(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 1, 1, 1), last_step=2) as batches:
        batches.batch(0)
        batches.batch(1)
    assert watched.steps == [0, 1]


def test_any_step_may_follow_any_other(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 1, 4, 1)) as batches:
        for step in (5, 6, 1_000_000_000, 7, 7, 0, 3, 4):
            expected = watched._dataset.examples(watched._dataset.train_batch(step, 16)).tokens
            assert np.array_equal(np.asarray(batches.batch(step).tokens)[0], expected)
            assert set(batches._ahead) == {step + 1, step + 2}, "what was made for another place is dropped"
    # A leap costs its own batch: at most the two made ahead are lost each time.
    assert len(watched.steps) <= 8 + 3 * 6


def test_an_error_of_the_thread_is_raised_where_its_batch_is_asked_for(watched: Watched) -> None:
    watched.broken_step = 1
    with loader(watched, batch_sharding(1, 1, 1, 1)) as batches:
        batches.batch(0)
        with pytest.raises(OSError, match="the disk is gone"):
            batches.batch(1)
        batches.batch(2)


def test_waiting_is_measured(watched: Watched) -> None:
    times = iter([10.0, 10.5, 20.0, 20.25])
    with loader(watched, batch_sharding(1, 1, 1, 1), clock=lambda: next(times)) as batches:
        batches.batch(0)
        assert batches.last_wait_seconds == 0.5
        batches.batch(1)
        assert batches.last_wait_seconds == 0.25
        assert batches.wait_seconds == 0.75


def test_closing_ends_the_thread(watched: Watched) -> None:
    batches = loader(watched, batch_sharding(1, 1, 1, 1))
    kept = batches.batch(0)
    batches.close()
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("halcyon-loader")]
    assert np.asarray(kept.tokens).shape == (1, 16, 8)


def test_microbatches_must_divide(watched: Watched) -> None:
    with pytest.raises(ValueError, match="a batch of 16 cannot be cut into 3 equal microbatches"):
        loader(watched, batch_sharding(1, 1, 1, 1), microbatches=3)


def test_a_batch_goes_through_jit(watched: Watched) -> None:
    with loader(watched, batch_sharding(1, 1, 4, 1)) as batches:
        batch = batches.batch(0)
        total = jax.jit(lambda batch: batch.weights.sum() + batch.tokens[0, 0, 0])(batch)
        assert float(total) == float(np.asarray(batch.weights).sum()) + int(np.asarray(batch.tokens)[0, 0, 0])
