"""Batches on the devices, prefetched by a few threads.

A batch is a few global arrays of shape ``[microbatches, batch / microbatches, length]`` whose second axis is sharded
over the devices, and whose third one is if the mesh splits positions. Row ``r`` of the step's batch is row ``r % (batch
/ microbatches)`` of microbatch ``r // (batch / microbatches)``, on any mesh and with any number of processes. Each
process reads and builds only the rows of its own devices, and no device holds data of another device, so cutting a
batch into microbatches moves no data between devices. Where the devices and the microbatches do not divide the batch,
rows of padding, whose weights are 0, follow its last row.

The prefetch depth begins at one batch and doubles with every batch taken, up to `depth` and a bound on memory. So the
first step waits only for its own batch, and a slow store soon receives many requests in parallel. A request for a step
that is not the next one is allowed: the prefetched batches are dropped, and the caller waits for one batch. This is
correct because a batch depends only on the step.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import jax
import numpy as np
from jax.sharding import NamedSharding, Sharding

from halcyon.data.dataset import Dataset
from halcyon.data.examples import FIELDS, Batch, Examples


def padded_rows(batch_size: int, microbatches: int, sharding: Sharding) -> int:
    """Rows of a microbatch, padding included: the least that hold the batch and that the devices divide.

    Args:
        batch_size: Rows of the batch.
        microbatches: Its parts.
        sharding: Sharding of ``[microbatches, rows, length]``.
    """
    count = len(sharding.device_set)
    shards = count // sharding.shard_shape((1, count, count))[1]
    return -(-batch_size // (microbatches * shards)) * shards


def global_batch(
    rows: Callable[[np.ndarray], Examples], shape: tuple[int, int, int], sharding: Sharding, *, fields: Iterable[str]
) -> Batch:
    """Build a global batch. This process makes only the rows of its own devices.

    Args:
        rows: Returns the examples of the given rows, 0 to ``m b - 1``, of the batch.
        fields: Names of the arrays.
        shape: ``(m, b, L)``.
        sharding: Sharding of ``[m, b, L]``.
    """
    numbers = np.arange(shape[0] * shape[1]).reshape(shape[:2])
    placements = sharding.addressable_devices_indices_map(shape)
    made: dict[bytes, Examples] = {}
    pieces: dict[str, list[jax.Array]] = {name: [] for name in fields}
    for device, index in placements.items():
        mine, positions = (numbers[index[:2]], index[2]) if index is not None else (numbers, slice(None))
        if (key := mine.tobytes()) not in made:
            made[key] = rows(mine.ravel())
        for name, arrays in pieces.items():
            rows_of = getattr(made[key], name)
            if rows_of.ndim == 2:
                rows_of = rows_of[:, positions]
            arrays.append(jax.device_put(rows_of.reshape(*mine.shape, *rows_of.shape[1:]), device))

    def whole(arrays: list[jax.Array]) -> jax.Array:
        of_row = shape[2:] if arrays[0].ndim == 3 else arrays[0].shape[2:]
        return jax.make_array_from_single_device_arrays((*shape[:2], *of_row), sharding, arrays)

    return {name: whole(arrays) for name, arrays in pieces.items()}


@dataclass(eq=False)
class Loader:
    """The batches of a run by step.

    Args:
        dataset: Source of the examples.
        microbatches: Parts of a step's batch.
        sharding: Sharding of an array ``[microbatches, batch / microbatches, length]``.
        fields: Names of a batch's arrays, among `halcyon.data.examples.FIELDS`; or their types by name, whose shapes
            are those of a row.
        last_step: Batches from this step on are not prefetched. Default: no last step.
        depth: At most this number of batches is prefetched.
        memory_bytes: Prefetched batches use at most this much host memory, but one batch is always prefetched.
        threads: Number of batches that are built in parallel.
        clock: Seconds, of any origin.
    """

    dataset: Dataset
    microbatches: int
    sharding: NamedSharding
    fields: Iterable[str]
    last_step: int | None = None
    depth: int = 8
    memory_bytes: int = 1 << 30
    threads: int = 2
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self._fields = tuple(self.fields)
        types = self.fields if isinstance(self.fields, Mapping) else {}
        self._shapes = [types[name].shape if name in types else () for name in self._fields]
        if unknown := [name for name in self._fields if name not in FIELDS]:
            raise ValueError(f"the objective asks for {', '.join(unknown)}; examples have {', '.join(FIELDS)}")
        self._threads = ThreadPoolExecutor(max_workers=self.threads, thread_name_prefix="halcyon-loader")
        self._ahead: dict[int, Future[Batch]] = {}
        self._reach = 0
        self.last_wait_seconds = 0.0
        """Seconds that the last call of `batch` waited for data."""

    def batch(self, step: int, state: object = None) -> Batch:
        """The batch of the ``(step + 1)``-th optimizer step. Never waits for a device. The state of the training, which
        other sources need, has no effect.
        """
        del state
        begin = self.clock()
        self._make_ahead(step)
        batch = self._ahead.pop(step).result()
        self._reach = min(max(1, 2 * self._reach), self.depth)
        self._make_ahead(step + 1, first_wanted=False)
        self.last_wait_seconds = self.clock() - begin
        return batch

    def close(self) -> None:
        """End the threads. Returned batches stay valid."""
        self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _make_ahead(self, step: int, *, first_wanted: bool = True) -> None:
        """Start the batches from ``step`` on up to the prefetch depth, which counts from ``step + first_wanted``.

        Drop all others.
        """
        wanted = range(step, self._end_of_reach(step + first_wanted))
        for stale in [made for made in self._ahead if made not in wanted]:
            self._ahead.pop(stale).cancel()
        for coming in wanted:
            if coming not in self._ahead:
                self._ahead[coming] = self._threads.submit(self._build, coming)

    def _end_of_reach(self, first: int) -> int:
        """The step after the last step whose batch may be prefetched, where ``first`` is the first such step."""
        end = first
        room = self.memory_bytes
        while end < first + self._reach and (self.last_step is None or end < self.last_step):
            room -= self._size_bytes(end)
            if room < 0 and end > first:
                break
            end += 1
        return end

    def _size_bytes(self, step: int) -> float:
        """Bytes of a step's batch in this host's memory."""
        schedule = self.dataset.schedule
        of_this_host = len(self.sharding.addressable_devices) / self.sharding.mesh.size
        numbers = sum(math.prod(shape or (schedule.sequence_length(step),)) for shape in self._shapes)
        return schedule.batch_size(step) * 4 * numbers * of_this_host

    def _build(self, step: int) -> Batch:
        rows = self.dataset.train_rows(step)
        shape = (self.microbatches, padded_rows(len(rows), self.microbatches, self.sharding), rows.length)
        rows = rows.padded_to(shape[0] * shape[1])
        return global_batch(lambda mine: self.dataset.examples(rows[mine]), shape, self.sharding, fields=self._fields)
