"""The state as it is now, copied into host memory that nothing else touches.

A step donates its input buffers, and on a CPU a NumPy view of an array *is* the device's buffer, so a view is never enough: the copy is
finished before `Snapshotter.take` returns. Of an array that is replicated, over devices or over processes, only the first replica is taken.

Fresh memory is slow the first time it is written to (the kernel hands out pages one by one: on a small virtual machine that took thirty
times as long as the copy itself), so the buffers are kept from one save to the next, and `prepare` makes them ahead of the first.
Accelerators copy into pages of their own, which NumPy then owns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from halcyon.checkpoint.layout import Leaf, Region, chunk_limit, describe, flatten, normal, whole
from halcyon_api.checkpoint_documents import ManifestLeaf


@dataclass(frozen=True)
class Shard:
    """A part of a leaf in host memory."""

    leaf: int
    """Index into `Snapshot.leaves`."""
    region: Region
    data: np.ndarray


@dataclass(frozen=True)
class Snapshot:
    """A state at one step: all leaves as every process knows them, and the shards that this process writes."""

    leaves: tuple[ManifestLeaf, ...]
    shards: tuple[Shard, ...]

    @property
    def size_bytes(self) -> int:
        """Size of this process's shards."""
        return sum(shard.data.nbytes for shard in self.shards)


class Snapshotter:
    """Takes snapshots, one at a time: the next one overwrites the buffers of the last.

    Args:
        first: Whether this process writes what has no device, such as plain numbers.
    """

    def __init__(self, *, first: bool) -> None:
        self._first = first
        self._buffers: dict[tuple[str, tuple[tuple[int, int], ...]], np.ndarray] = {}

    def prepare(self, template: Any) -> None:
        """Make the buffers for states like `template`, and touch their pages."""
        for leaf in flatten(template):
            if leaf.sharding is not None:
                for device, region in _regions(leaf, leaf.sharding):
                    if device.platform == "cpu":
                        self._buffer(leaf, region).fill(0)

    def take(self, state: Any) -> Snapshot:
        """Copy a state. Its buffers may be donated once this returns."""
        leaves = flatten(state)
        shards = [(index, leaf, shard) for index, leaf in enumerate(leaves) for shard in _first_replicas(leaf)]
        for _, _, shard in shards:
            if shard.device.platform != "cpu":
                shard.data.copy_to_host_async()  # all transfers at once
        copies = [Shard(index, normal(shard.index, leaf.shape), self._copy(leaf, shard)) for index, leaf, shard in shards]
        if self._first:
            plain = [(index, leaf) for index, leaf in enumerate(leaves) if not isinstance(leaf.value, jax.Array)]
            copies += [Shard(index, whole(leaf.shape), np.array(leaf.value, dtype=leaf.dtype)) for index, leaf in plain]
        limit = chunk_limit(leaves)
        return Snapshot(leaves=tuple(describe(leaf, limit) for leaf in leaves), shards=tuple(copies))

    def _copy(self, leaf: Leaf, shard: Any) -> np.ndarray:
        data = np.asarray(shard.data)
        if shard.device.platform != "cpu":
            return data  # the transfer made it, and nothing else knows of it
        buffer = self._buffer(leaf, normal(shard.index, leaf.shape))
        np.copyto(buffer, data)
        return buffer

    def _buffer(self, leaf: Leaf, region: Region) -> np.ndarray:
        key = (leaf.path, tuple((part.start, part.stop) for part in region))
        shape = tuple(part.stop - part.start for part in region)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.dtype != leaf.dtype:
            buffer = self._buffers[key] = np.empty(shape, leaf.dtype)
        return buffer


def _first_replicas(leaf: Leaf) -> Iterator[Any]:
    """This process's shards of a leaf that no other device writes."""
    if isinstance(leaf.value, jax.Array):
        yield from (shard for shard in leaf.value.addressable_shards if shard.replica_id == 0)


def _regions(leaf: Leaf, sharding: jax.sharding.Sharding) -> Iterator[tuple[Any, Region]]:
    """This process's first replicas of a leaf that is only a shape: the regions whose lowest device is here."""
    owners: dict[tuple[tuple[int, int], ...], tuple[Any, Region]] = {}
    for device, index in sharding.devices_indices_map(leaf.shape).items():
        region = normal(index, leaf.shape)
        owners.setdefault(tuple((part.start, part.stop) for part in region), (device, region))
    here = jax.process_index()
    return (owner for owner in owners.values() if owner[0].process_index == here)
