"""Copies the present state into separate host memory.

A step donates its input buffers, and on a CPU a NumPy view of an array *is* the device's buffer, so a view is not
enough: the copy is finished before `Snapshotter.take` returns. Only the arrays that this process writes are copied: of
an array that is replicated over processes, the chunks that are assigned to this process (see `layout`), each from
one of the devices that hold it.

The first write to fresh memory is slow (the kernel allocates pages one by one: on a small virtual machine that took
thirty times as long as the copy itself), so the buffers are kept from one save to the next, and `prepare` allocates
them before the first save. Transfers from accelerators allocate their own pages, which NumPy then owns.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import numpy as np

from halcyon.checkpoint import layout
from halcyon.host.memory import HOST_MEMORY
from halcyon_api.checkpoint_documents import ManifestLeaf

_EXTRA_DEVICE_BYTES = 256 << 20
"""Most device memory for parts of shards that are being transferred to the host."""


@dataclass(frozen=True)
class Shard:
    """A part of a leaf in host memory."""

    leaf: int
    """Index into `Snapshot.leaves`."""
    region: layout.Region
    data: np.ndarray


@dataclass(frozen=True)
class Snapshot:
    """A state at one step: all leaves, the same on every process, and the shards that this process writes."""

    leaves: tuple[ManifestLeaf, ...]
    shards: tuple[Shard, ...]
    metadata: tuple[int, ...]
    """Indices of the leaves whose ``zarr.json`` this process writes."""
    state_bytes: int
    """Size of the whole state, of all processes."""

    @property
    def size_bytes(self) -> int:
        """Size of this process's shards."""
        return sum(shard.data.nbytes for shard in self.shards)


@dataclass(frozen=True)
class _Piece:
    """The part of one region of a leaf that this process writes."""

    leaf: int
    held: layout.Region
    """The region that devices hold."""
    region: layout.Region
    """The part of it that is copied: the whole region, or one chunk."""
    turn: int
    """Selects one of this process's devices that hold the region, round-robin."""


_Plan = tuple[Snapshot, Sequence[_Piece]]
"""A snapshot without shards, and the pieces that become its shards."""


class Snapshotter:
    """Takes snapshots, one at a time: the next snapshot overwrites the buffers of the last one.

    Args:
        process: Index of this process, equal to ``process_index`` of its devices.
        process_count: Number of processes that save the state together.
    """

    def __init__(self, process: int, process_count: int) -> None:
        self._process, self._process_count = process, process_count
        self._buffers: dict[tuple[str, layout.RegionKey], np.ndarray] = {}
        self._plan_of: tuple[Any, _Plan] | None = None

    def prepare(self, template: Any) -> None:
        """Allocate the buffers for states like `template`, and write to their pages."""
        leaves = layout.flatten(template)
        for piece in self._plan(leaves)[1]:
            leaf = leaves[piece.leaf]
            if leaf.sharding is not None and all(
                _on_host(device, leaf.sharding) for device in leaf.sharding.device_set
            ):
                self._buffer(leaf, piece.region).fill(0)

    def take(self, state: Any) -> Snapshot:
        """Copy a state. Its buffers may be donated once this returns."""
        leaves = layout.flatten(state)
        empty, pieces = self._plan(leaves)
        here = {index: _shards(leaves[index]) for index in {piece.leaf for piece in pieces}}
        copies: list[Shard] = []
        under_way: deque[tuple[_Piece, jax.Array]] = deque()
        extra_bytes = 0
        for piece in pieces:
            leaf = leaves[piece.leaf]
            if not isinstance(leaf.value, jax.Array):
                copies.append(Shard(piece.leaf, piece.region, np.array(leaf.value, dtype=leaf.dtype)))
                continue
            replicas = here[piece.leaf][layout.key_of(piece.held)]
            shard = replicas[piece.turn % len(replicas)]
            if _on_host(shard.device, shard.data.sharding):
                buffer = self._buffer(leaf, piece.region)
                np.copyto(buffer, np.asarray(shard.data)[layout.within(piece.region, piece.held)])
                copies.append(Shard(piece.leaf, piece.region, buffer))
                continue
            data = shard.data
            if piece.region != piece.held:
                begin = [part.start for part in layout.within(piece.region, piece.held)]
                data = jax.lax.dynamic_slice(data, begin, layout.shape_of(piece.region))
                extra_bytes += data.nbytes
            data.copy_to_host_async()  # all transfers run at once, within `_EXTRA_DEVICE_BYTES` of device memory
            under_way.append((piece, data))
            while extra_bytes > _EXTRA_DEVICE_BYTES:
                extra_bytes -= self._land(under_way, copies)
        while under_way:
            self._land(under_way, copies)
        return replace(empty, shards=tuple(copies))

    def _plan(self, leaves: Sequence[layout.Leaf]) -> _Plan:
        """The pieces that this process writes.

        Computed once, because the shapes of a state are the same in every save.
        """
        form = tuple((leaf.path, leaf.shape, leaf.dtype, leaf.axes, leaf.sharding) for leaf in leaves)
        if self._plan_of is None or self._plan_of[0] != form:
            self._plan_of = form, _make_plan(leaves, self._process, self._process_count)
        return self._plan_of[1]

    def _land(self, under_way: deque[tuple[_Piece, jax.Array]], copies: list[Shard]) -> int:
        """Wait for the oldest transfer. Returns the bytes of device memory that it used in addition to the state."""
        piece, data = under_way.popleft()
        # The transfer allocated this memory, and nothing else uses it.
        copies.append(Shard(piece.leaf, piece.region, np.asarray(data)))
        return 0 if piece.region == piece.held else data.nbytes

    def _buffer(self, leaf: layout.Leaf, region: layout.Region) -> np.ndarray:
        key = (leaf.path, layout.key_of(region))
        buffer = self._buffers.get(key)
        if buffer is None or buffer.dtype != leaf.dtype:
            buffer = self._buffers[key] = np.empty(layout.shape_of(region), leaf.dtype)
        return buffer


def _make_plan(leaves: Sequence[layout.Leaf], process: int, process_count: int) -> _Plan:
    total = layout.state_bytes(leaves)
    limit = layout.chunk_limit(total)
    described = tuple(layout.describe(leaf, limit) for leaf in leaves)
    who_holds = cache(layout.who_holds)
    pieces: list[_Piece] = []
    loads: dict[int, int] = {}
    shared: list[tuple[int, layout.Held, layout.Region]] = []
    for index, (leaf, there) in enumerate(zip(leaves, described, strict=True)):
        plain = (layout.Held(layout.whole(leaf.shape), (0,)),)  # the same number on every process
        for one in plain if leaf.sharding is None else who_holds(leaf.sharding, leaf.shape):
            first, *others = one.processes
            if others:
                shared += [
                    (index, one, layout.chunk_region(there, indices)) for indices in layout.chunks_of(there, one.region)
                ]
                continue
            loads[first] = loads.get(first, 0) + _bytes(leaf, one.region)
            if first == process:
                pieces.append(_Piece(index, one.region, one.region, len(pieces)))
    sizes = [_bytes(leaves[index], region) for index, _, region in shared]
    writers = layout.assign(sizes, [one.processes for _, one, _ in shared], loads)
    for (index, one, region), writer in zip(shared, writers, strict=True):
        if writer == process:
            pieces.append(_Piece(index, one.region, region, len(pieces)))
    return Snapshot(described, (), tuple(range(process, len(leaves), process_count)), total), pieces


def _bytes(leaf: layout.Leaf, region: layout.Region) -> int:
    return math.prod(layout.shape_of(region)) * leaf.dtype.itemsize


def _shards(leaf: layout.Leaf) -> dict[layout.RegionKey, list[Any]]:
    """This process's shards of a leaf by region, with all replicas of each region."""
    shards: dict[layout.RegionKey, list[Any]] = {}
    if isinstance(leaf.value, jax.Array):
        for shard in leaf.value.addressable_shards:
            shards.setdefault(layout.key_of(layout.normal(shard.index, leaf.shape)), []).append(shard)
    return shards


def _on_host(device: Any, sharding: jax.sharding.Sharding) -> bool:
    """Whether a device holds its part of an array in the memory of the host."""
    return device.platform == "cpu" or sharding.memory_kind == HOST_MEMORY
