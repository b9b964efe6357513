"""Batches on the devices, made ahead of the loop by one thread.

A batch is three global arrays of shape ``[microbatches, batch / microbatches, length]`` whose second axis is sharded over the devices.
Row ``r`` of the step's batch is row ``r % (batch / microbatches)`` of microbatch ``r // (batch / microbatches)``, on any mesh and with any
number of processes. Each process reads and builds only the rows of its own devices, and no device ever holds another one's, so cutting a
batch into microbatches moves nothing between devices.

The thread stays ``depth`` batches ahead. Asking for another step than the next one is allowed and costs one batch: what was made ahead is
dropped, because a batch is a function of the step and not of what came before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import jax
import numpy as np
from jax.sharding import NamedSharding, Sharding

from halcyon.data.dataset import Dataset, Examples


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """The examples of one step as global arrays: m microbatches of b sequences of L positions."""

    tokens: jax.Array
    """Inputs: int32 [m, b, L]."""
    targets: jax.Array
    """What follows each input: int32 [m, b, L]."""
    weights: jax.Array
    """How much each target counts in the loss: float32 [m, b, L]."""


def global_batch(rows: Callable[[np.ndarray], Examples], shape: tuple[int, int, int], sharding: Sharding) -> Batch:
    """Build a batch of which this process makes only its own devices' rows.

    Args:
        rows: Gives the examples of the named rows, 0 to ``m b - 1``, of the batch.
        shape: ``(m, b, L)``.
        sharding: How ``[m, b, L]`` lies on the devices. The last axis must not be split.
    """
    numbers = np.arange(shape[0] * shape[1]).reshape(shape[:2])
    placements = sharding.addressable_devices_indices_map(shape)
    made: dict[bytes, Examples] = {}
    pieces: dict[str, list[jax.Array]] = {"tokens": [], "targets": [], "weights": []}
    for device, index in placements.items():
        mine = numbers[index[:2]] if index is not None else numbers
        examples = made.get(key := mine.tobytes())
        if examples is None:
            examples = made[key] = rows(mine.ravel())
        for name, arrays in pieces.items():
            arrays.append(jax.device_put(getattr(examples, name).reshape(*mine.shape, shape[2]), device))
    return Batch(**{name: jax.make_array_from_single_device_arrays(shape, sharding, arrays) for name, arrays in pieces.items()})


class Loader:
    """The batches of a run by step.

    Args:
        dataset: Where the examples come from.
        batch_size: Sequences of a step, over all devices.
        microbatches: Parts of a step's batch; divides ``batch_size``.
        sharding: How an array ``[microbatches, batch_size / microbatches, length]`` lies on the devices.
        last_step: Batches from this step on are not made ahead. Default: there is no last step.
        depth: How many batches are made ahead.
        clock: Seconds, of any origin.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        microbatches: int,
        sharding: NamedSharding,
        last_step: int | None = None,
        depth: int = 2,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if batch_size % microbatches:
            raise ValueError(f"a batch of {batch_size} cannot be cut into {microbatches} equal microbatches")
        self._dataset = dataset
        self._batch_size = batch_size
        self._shape = (microbatches, batch_size // microbatches, dataset.sequence_length)
        self._sharding = sharding
        self._last_step = last_step
        self._depth = depth
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="halcyon-loader")
        self._ahead: dict[int, Future[Batch]] = {}
        self.last_wait_seconds = 0.0
        """How long the last call of `batch` waited for data, in seconds."""
        self.wait_seconds = 0.0
        """How long all calls of `batch` waited for data, in seconds."""

    def batch(self, step: int) -> Batch:
        """The batch of the ``(step + 1)``-th optimizer step. Never waits for a device."""
        begin = self._clock()
        self._make_ahead(step)
        batch = self._ahead.pop(step).result()
        self.last_wait_seconds = self._clock() - begin
        self.wait_seconds += self.last_wait_seconds
        return batch

    def close(self) -> None:
        """End the thread. Batches handed out stay valid."""
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _make_ahead(self, step: int) -> None:
        """Have the batches from ``step`` to ``step + depth`` in the making, and no others."""
        end = step + 1 + self._depth
        if self._last_step is not None:
            end = max(step + 1, min(end, self._last_step))
        wanted = range(step, end)
        for stale in [made for made in self._ahead if made not in wanted]:
            self._ahead.pop(stale).cancel()
        for coming in wanted:
            if coming not in self._ahead:
                self._ahead[coming] = self._thread.submit(self._build, coming)

    def _build(self, step: int) -> Batch:
        indices = self._dataset.train_batch(step, self._batch_size)
        return global_batch(lambda rows: self._dataset.examples(indices[rows]), self._shape, self._sharding)
