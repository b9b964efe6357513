"""Reads arrays from a checkpoint into any sharding, by global index ranges.

Each process computes which regions its devices need, reads the chunks that overlap them, and checks every file against
the manifest before it decodes the file. The sharding of the writer decides only which files these are.

Processes that need the same regions of an array read its chunks for each other (see `layout` and `broadcast`):
each file is read once in such a group, and checked by the process that reads it. The leaves are read in waves, so a
process holds at most one wave in host memory. After the reads of a wave all processes agree that it is valid, before
any process sends data to others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from halcyon.checkpoint import layout
from halcyon.checkpoint.broadcast import Partition, broadcast, devices_are_even, partition_of, stream_bytes
from halcyon.checkpoint.codec import decode
from halcyon.checkpoint.layout import Indices
from halcyon.checkpoint.parts import in_parallel
from halcyon.checkpoint.processes import Agreement
from halcyon.checkpoint.verify import Damaged, OtherState, read_file, read_manifest
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import CommittedStep, Manifest, ManifestFile, ManifestLeaf

WAVE_BYTES = 512 << 20
"""Approximate size of a wave: the bytes that a process reads before it transfers them to its devices."""


AVERAGE_PREFIX = "average."
"""How the paths of an average of the parameters begin in a checkpoint."""


Pair = tuple[ManifestLeaf, layout.Leaf]
"""An array of a checkpoint, and that of the template."""
Found = tuple[Sequence[Pair], Iterable[ManifestFile]]
"""The arrays of a state, and the files that hold them."""
Owner = Callable[[ManifestFile], int | None]
"""The process that reads a file most quickly; None: any."""


def holds_average(manifest: Manifest, template: Any) -> bool:
    """Whether a checkpoint has the arrays of the template's average, with their shapes."""
    shapes = {leaf.path: leaf.shape for leaf in manifest.leaves}
    return all(
        shapes.get(leaf.path) == leaf.shape for leaf in layout.flatten(template) if leaf.path.startswith(AVERAGE_PREFIX)
    )


def match_leaves(
    leaves: Sequence[ManifestLeaf], template: Any, *, cast: bool, part: bool, spare: str | None
) -> tuple[Pair, ...]:
    """Pair the arrays of a checkpoint with those of a template, by path.

    Args:
        leaves: The arrays of the checkpoint.
        template: Tree of arrays or of their shapes.
        cast: Accept arrays of another floating-point type.
        part: Accept a checkpoint with more arrays than the template.
        spare: Accept further arrays whose paths begin with this.

    Raises:
        OtherState: An array is missing on one side, or has another shape or type.
    """
    saved = {leaf.path: leaf for leaf in leaves}
    wanted = layout.flatten(template)
    for leaf in wanted:
        if leaf.path not in saved:
            raise OtherState(f"the state has an array {leaf.path} that the checkpoint does not have")
        there = saved[leaf.path]
        alike = there.dtype == leaf.dtype.name or (cast and _floating(jnp.dtype(there.dtype)) and _floating(leaf.dtype))
        if there.shape != leaf.shape or not alike:
            raise OtherState(
                f"the state's array {leaf.path} is {leaf.dtype.name}{list(leaf.shape)}, the checkpoint's is "
                f"{there.dtype}{list(there.shape)}"
            )
    surplus = set(saved) - {leaf.path for leaf in wanted}
    if spare is not None:
        surplus = {path for path in surplus if not path.startswith(spare)}
    if surplus and not part:
        raise OtherState(f"the checkpoint has an array {min(surplus)} that the state does not have")
    return tuple((saved[leaf.path], leaf) for leaf in wanted)


def read_state(
    store: Store,
    entry: CommittedStep,
    template: Any,
    agree: Agreement,
    *,
    cast: bool = False,
    part: bool = False,
    spare: str | None = None,
    share_from_bytes: int,
) -> Any:
    """Read a state. A collective, for the main thread.

    Args:
        store: The root.
        entry: The checkpoint's entry in HEAD.
        template: Tree of ``jax.ShapeDtypeStruct`` with shardings, or of arrays. A leaf without a sharding is read into
            a NumPy array.
        agree: Exchanges results among the processes.
        cast: Round arrays that were saved in another floating-point type.
        part: The template may be a part of the saved state.
        spare: The saved state may have further arrays whose paths begin with this.
        share_from_bytes: In a checkpoint of at least this size, processes that need the same regions read each file
            only once.

    Returns:
        A tree like the template, every array in its sharding.

    Raises:
        Exception: The error that `agree` raises for `Damaged` (a file is damaged), `OtherState` (the arrays are not
            those of the template) or `StoreFailure` (the store did not answer), here or on another process.
    """

    def read_and_match() -> Found:
        manifest = read_manifest(store, entry)
        return match_leaves(manifest.leaves, template, cast=cast, part=part, spare=spare), manifest.files

    is_shared = entry.size_bytes >= share_from_bytes
    return read_arrays(template, agree, read_and_match, partial(read_file, store, entry.path), is_shared=is_shared)


def read_arrays(
    template: Any,
    agree: Agreement,
    find: Callable[[], Found],
    read: Callable[[ManifestFile], bytes],
    *,
    is_shared: bool,
    owner: Owner = lambda file: None,
) -> Any:
    """Read a state from its files. A collective, for the main thread.

    Args:
        template: See `read_state`.
        agree: Exchanges results among the processes.
        find: Finds the arrays and the files. Both are the same on every process.
        read: Reads a file, and checks it.
        is_shared: Whether processes that need the same regions read each file only once.
        owner: The process that reads a file most quickly; None: any.

    Raises:
        Exception: See `read_state`.
    """
    files: dict[str, ManifestFile] = {}
    pairs: list[Pair] = []

    def find_all() -> tuple[int, ...]:
        found, named = find()
        pairs.extend(found)
        files.update((file.path, file) for file in named)
        return ()

    agree(find_all)
    count = agree.processes.process_count
    group = _SharedReads(count, owner, worthwhile=is_shared)
    arrays: list[Any] = []
    for wave in _waves(pairs, count):
        readers = [_LeafReader(read, files, there, leaf, group.partition(leaf)) for there, leaf in wave]
        arrays += group.read(readers, agree)
    return layout.unflatten(template, arrays)


def _waves(pairs: Sequence[Pair], process_count: int) -> Iterator[list[Pair]]:
    """The leaves in waves of about `WAVE_BYTES` for each process. The same waves on every process."""
    wave: list[Pair] = []
    held = 0
    for there, leaf in pairs:
        shard = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        devices = 1 if leaf.sharding is None else max(1, len(leaf.sharding.device_set) // process_count)
        size = math.prod(shard) * leaf.dtype.itemsize * devices
        if wave and held + size > WAVE_BYTES:
            yield wave
            wave, held = [], 0
        wave.append((there, leaf))
        held += size
    if wave:
        yield wave


def _floating(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


class _SharedReads:
    """Finds the processes that read for each other, and reads waves of leaves."""

    def __init__(self, process_count: int, owner: Owner, *, worthwhile: bool) -> None:
        self._process_count, self._owner = process_count, owner
        # Processes that JAX does not connect (in a test) cannot send data to each other.
        self._possible = (
            worthwhile and process_count > 1 and process_count == jax.process_count() and devices_are_even()
        )
        self._known: dict[Any, Partition | None] = {}
        self._loads: dict[Partition, dict[int, int]] = {}

    def partition(self, leaf: layout.Leaf) -> Partition | None:
        """The groups of processes that hold the same regions of a leaf; None if every process reads for itself."""
        if not self._possible:
            return None
        key = (leaf.sharding, leaf.shape)
        if key not in self._known:
            held = (
                (tuple(range(self._process_count)),)
                if leaf.sharding is None
                else [one.processes for one in layout.who_holds(leaf.sharding, leaf.shape)]
            )
            self._known[key] = partition_of(held, self._process_count)
        return self._known[key]

    def read(self, readers: Sequence[_LeafReader], agree: Agreement) -> list[Any]:
        """Read one wave of leaves and put them on their devices."""
        jobs: list[Callable[[], object]] = [
            job for reader in readers if reader.partition is None for job in reader.jobs()
        ]
        # The restore does not use zarr.json, but a missing or changed one is damage all the same.
        jobs += [
            reader.check_metadata
            for reader in readers[jax.process_index() % self._process_count :: self._process_count]
        ]
        shared = [
            _SharedRead(
                partition,
                [reader for reader in readers if reader.partition == partition],
                self._loads.setdefault(partition, {}),
                self._owner,
            )
            for partition in sorted({reader.partition for reader in readers if reader.partition is not None})
        ]

        def work() -> list[int]:
            in_parallel([*jobs, *(job for one in shared for job in one.jobs())])
            return [one.own_bytes for one in shared]

        lengths = agree(work)
        for number, one in enumerate(shared):
            one.finish(max(of_process[number] for of_process in lengths))
        return [reader.array() for reader in readers]


class _SharedRead:
    """The chunks of some leaves that a group of processes shares: each process reads its part."""

    def __init__(
        self,
        partition: Partition,
        readers: Sequence[_LeafReader],
        loads: dict[int, int],
        owner: Owner,
    ) -> None:
        me = jax.process_index()
        self._partition = partition
        self._group = next(group for group in partition if me in group)
        self._items = [(reader, indices) for reader in readers for indices in reader.needed]
        files = [reader.file(indices) for reader, indices in self._items]
        owners = [(one,) if (one := owner(file)) in self._group else self._group for file in files]
        self._by = layout.assign([file.size_bytes for file in files], owners, loads)
        self._me = me
        self._read: dict[int, np.ndarray] = {}

    @property
    def own_bytes(self) -> int:
        """Length of this process's stream in bytes."""
        return self._length(self._me)

    def jobs(self) -> list[Callable[[], None]]:
        """One job for each chunk that this process reads."""
        return [
            lambda number=number: self._fetch(number) for number, process in enumerate(self._by) if process == self._me
        ]

    def _fetch(self, number: int) -> None:
        reader, indices = self._items[number]
        self._read[number] = reader.fetch(indices)

    def finish(self, longest: int) -> None:
        """Exchange the chunks with the other processes of the group, and copy all of them into the regions. A
        collective.

        Args:
            longest: Length of the longest stream of any process, in bytes.
        """
        own = [self._read[number] for number in sorted(self._read)]
        mine = [chunk.reshape(-1).view(np.uint8) for chunk in own]
        streams = broadcast(self._partition, mine, [self._length(process) for process in self._group], longest)
        at = dict.fromkeys(self._group, 0)
        for number, ((reader, indices), process) in enumerate(zip(self._items, self._by, strict=True)):
            if number in self._read:
                reader.paste(indices, self._read[number])
            else:
                size = reader.chunk_bytes(indices)
                start = at[process]
                stream = streams[self._group.index(process)]
                reader.paste(indices, reader.as_chunk(indices, stream[start : start + size]))
            at[process] += stream_bytes([reader.chunk_bytes(indices)])

    def _length(self, process: int) -> int:
        return stream_bytes(
            [
                reader.chunk_bytes(indices)
                for (reader, indices), by in zip(self._items, self._by, strict=True)
                if by == process
            ]
        )


@dataclass
class _LeafReader:
    """Fills the regions of one leaf that this process's devices need."""

    read: Callable[[ManifestFile], bytes]
    files: dict[str, ManifestFile]
    there: ManifestLeaf
    leaf: layout.Leaf
    partition: Partition | None

    def __post_init__(self) -> None:
        self._dtype = np.dtype(self.there.dtype)
        sharding, shape = self.leaf.sharding, self.leaf.shape
        self._devices: list[tuple[Any, layout.RegionKey]] = []
        self._regions: dict[layout.RegionKey, layout.Region] = {}
        indices: Sequence[tuple[Any, Any]] = (
            [(None, None)] if sharding is None else list(sharding.addressable_devices_indices_map(shape).items())
        )
        for device, index in indices:
            region = layout.whole(shape) if device is None else layout.normal(index or (), shape)
            self._regions[layout.key_of(region)] = region
            self._devices.append((device, layout.key_of(region)))
        self._filled: dict[layout.RegionKey, np.ndarray] = {}
        needed: dict[Indices, list[layout.RegionKey]] = {}
        for key, region in self._regions.items():
            chunks = list(layout.chunks_of(self.there, region))
            for chunk in chunks:
                needed.setdefault(chunk, []).append(key)
            if len(chunks) != 1 or layout.chunk_region(self.there, chunks[0]) != region:
                self._filled[key] = np.empty(layout.shape_of(region), self.leaf.dtype)
        self.needed = dict(sorted(needed.items()))
        """The chunks to read, and the regions that each overlaps.

        Processes that need the same chunks have the same order.
        """

    def jobs(self) -> list[Callable[[], None]]:
        """One job for each chunk. The jobs may run in parallel: no two write the same elements."""
        return [lambda indices=indices: self.paste(indices, self.fetch(indices)) for indices in self.needed]

    def check_metadata(self) -> None:
        """Check ``zarr.json``, which other Zarr readers read first. A snapshot in memory has none."""
        if (file := self.files.get(layout.metadata_path(self.there))) is not None:
            self.read(file)

    def file(self, indices: Indices) -> ManifestFile:
        """The file of a chunk."""
        return self.files[layout.chunk_path(self.there, indices)]

    def chunk_bytes(self, indices: Indices) -> int:
        """Size of a chunk's elements in bytes, without the checksum."""
        return math.prod(self._chunk_shape(indices)) * self._dtype.itemsize

    def as_chunk(self, indices: Indices, data: np.ndarray) -> np.ndarray:
        """A chunk from its bytes."""
        return data.view(self._dtype).reshape(self._chunk_shape(indices))

    def fetch(self, indices: Indices) -> np.ndarray:
        """Read a chunk and check it."""
        file = self.file(indices)
        data = self.read(file)
        try:
            return decode(self.there, indices, data, self._dtype)
        except ValueError as error:
            raise Damaged(f"data/{file.path} cannot be decoded: {str(error)[:200]}") from None

    def paste(self, indices: Indices, chunk: np.ndarray) -> None:
        """Copy a chunk into the regions that it overlaps, rounded if the leaf has another type."""
        chunk = chunk.astype(self.leaf.dtype, copy=False)
        held = layout.chunk_region(self.there, indices)
        for key in self.needed[indices]:
            region = self._regions[key]
            if key not in self._filled:
                self._filled[key] = chunk  # the region is this chunk
                continue
            shared = layout.overlap(held, region)
            self._filled[key][layout.within(shared, region)] = chunk[layout.within(shared, held)]

    def array(self) -> Any:
        """The leaf on its devices. Frees the host copies."""
        filled, self._filled = self._filled, {}
        sharding = self.leaf.sharding
        if sharding is None:
            return np.array(filled[self._devices[0][1]])  # a writable copy that the caller owns
        kind = sharding.memory_kind
        placed = [(filled[key], SingleDeviceSharding(device, memory_kind=kind)) for device, key in self._devices]
        shards = [jax.device_put(*each) for each in placed]
        return jax.make_array_from_single_device_arrays(self.leaf.shape, sharding, shards)

    def _chunk_shape(self, indices: Indices) -> list[int]:
        return layout.shape_of(layout.chunk_region(self.there, indices))
