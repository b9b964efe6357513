"""The layout of a state in files, as a pure function of the arrays' global shapes and shardings.

Every array of the state is one Zarr v3 array of regular chunks, with one file for each chunk. A chunk is a device's
shard, or an equal part of a large shard, so each process writes only its own shards. Readers need only the global
shape: they read the chunks that overlap the regions that they need, on any mesh.

Every process that holds a replicated region could write each chunk of it, or read it for the others. `assign` gives
each chunk to one of them: the largest first, each to the holder with the fewest bytes so far; regions with a single
holder count as its work from the start. All processes compute the same result without messages.
"""

import hashlib
import heapq
import itertools
import math
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from halcyon_api.checkpoint_documents import ManifestLeaf

CHUNK_LIMIT_BYTES = 32 << 20
"""Largest chunk of a small state, if its shape allows: bounds the memory of a save, and several files can be written in
parallel.
"""
LARGEST_CHUNK_BYTES = 512 << 20
FEW_FILES = 20_000
"""Approximate number of files of a large state, whose chunks are larger: a store handles a few large objects faster
than many small ones (docs/design/checkpoints.md)."""
METADATA_KEY = "zarr.json"
_LONGEST_FOLDER = 200
_PLAIN = frozenset(string.ascii_letters + string.digits + "._-")

Indices = tuple[int, ...]
"""The place of a chunk among those of its array."""
Region = tuple[slice, ...]
"""A part of an array: one slice with start and stop for each dimension."""
RegionKey = tuple[tuple[int, int], ...]
"""A hashable region: start and stop of each dimension."""


@dataclass(frozen=True)
class Leaf:
    """One array of a state in memory, or only its shape.

    Attributes:
        path: Its place in the tree, such as ``model.blocks.mlp.up.weight``.
        value: A ``jax.Array``, ``jax.ShapeDtypeStruct``, NumPy array or number.
        axes: Names of the axes of a named array; None for other arrays.
    """

    path: str
    value: Any
    axes: tuple[str, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Global shape."""
        return tuple(np.shape(self.value))

    @property
    def dtype(self) -> np.dtype:
        """Type of the elements."""
        return np.dtype(self.value.dtype if hasattr(self.value, "dtype") else np.asarray(self.value).dtype)

    @property
    def sharding(self) -> jax.sharding.Sharding | None:
        """Sharding over devices; None for a value without devices."""
        return getattr(self.value, "sharding", None)


def flatten(state: Any) -> tuple[Leaf, ...]:
    """The arrays of a tree with their paths, in the tree's order.

    Raises:
        TypeError: A leaf is not an array of numbers; the message names its path.
    """
    entries, _ = jax.tree_util.tree_flatten_with_path(state, is_leaf=_is_named)
    return tuple(_leaf(jax.tree_util.keystr(path, simple=True, separator="."), value) for path, value in entries)


def unflatten(template: Any, arrays: Sequence[Any]) -> Any:
    """A tree like `template` with `arrays` as its leaves, in the order of `flatten`."""
    entries, structure = jax.tree_util.tree_flatten(template, is_leaf=_is_named)
    values = [
        type(entry)(array, entry.axes) if _is_named(entry) else array
        for entry, array in zip(entries, arrays, strict=True)
    ]
    return jax.tree_util.tree_unflatten(structure, values)


def _is_named(node: Any) -> bool:
    """Whether a node is a Haliax named array: recognised by its attributes, so that Haliax need not be imported."""
    return hasattr(node, "array") and hasattr(node, "axes") and not isinstance(node, type)


def _leaf(path: str, value: Any) -> Leaf:
    axes = None
    if _is_named(value):
        axes = tuple(axis.name for axis in value.axes)
        value = value.array
    numeric = isinstance(value, (int, float, bool, np.generic, np.ndarray, jax.Array, jax.ShapeDtypeStruct))
    # A typed key of jax.random has a dtype that NumPy does not know.
    if not numeric or not isinstance(getattr(value, "dtype", np.dtype(int)), np.dtype):
        raise TypeError(
            f"state leaf {path!r} is a {type(value).__name__} that no file can hold; keep only arrays of numbers in "
            "the state"
        )
    return Leaf(path, value, axes)


def state_bytes(leaves: Sequence[Leaf]) -> int:
    """Size of a whole state in bytes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def chunk_limit(total_bytes: int) -> int:
    """Largest chunk in bytes, for a state of `total_bytes`. The same on every process."""
    return min(max(CHUNK_LIMIT_BYTES, total_bytes // FEW_FILES), LARGEST_CHUNK_BYTES)


def describe(leaf: Leaf, limit_bytes: int) -> ManifestLeaf:
    """The manifest entry of a leaf. The same on every process."""
    shard = tuple(leaf.sharding.shard_shape(leaf.shape)) if leaf.sharding is not None else leaf.shape
    chunks = chunk_shape(shard, leaf.dtype.itemsize, limit_bytes)
    return ManifestLeaf(path=leaf.path, shape=leaf.shape, dtype=leaf.dtype.name, axes=leaf.axes, chunk_shape=chunks)


def chunk_shape(shard: tuple[int, ...], itemsize: int, limit_bytes: int) -> tuple[int, ...]:
    """Split a shard evenly until a chunk is small enough.

    Divides by the smallest prime factor of all dimensions, the first dimension first, so that a prime dimension (a
    vocabulary) is not cut into single rows while another dimension can be halved.

    Args:
        shard: Shape of one device's shard.
        itemsize: Bytes of an element.
        limit_bytes: Largest size of a chunk.

    Returns:
        A shape that divides `shard` in every dimension.
    """
    dims = [max(size, 1) for size in shard]
    while math.prod(dims) * itemsize > limit_bytes and math.prod(dims) > 1:
        factor, axis = min((_smallest_factor(size), axis) for axis, size in enumerate(dims) if size > 1)
        dims[axis] //= factor
    return tuple(dims)


def _smallest_factor(number: int) -> int:
    return next((factor for factor in range(2, math.isqrt(number) + 1) if number % factor == 0), number)


def folder(path: str) -> str:
    """Folder of a leaf below ``data/``: its path, with characters that file systems or object stores may reject written
    as ``=XX``.

    No two paths share a folder: the escape is invertible, and a long path is cut and gets a hash of the path.
    """
    name = "".join(char if char in _PLAIN else "".join(f"={byte:02X}" for byte in char.encode()) for char in path)
    if not name.strip("."):
        name = f"={name}"
    if len(name) > _LONGEST_FOLDER:
        name = f"{name[: _LONGEST_FOLDER - 34]}=h{hashlib.sha256(path.encode()).hexdigest()[:32]}"
    return name


def chunk_key(indices: Sequence[int]) -> str:
    """Key of a chunk below its leaf's folder, in Zarr v3's default encoding."""
    return "/".join(["c", *map(str, indices)])


def metadata_path(leaf: ManifestLeaf) -> str:
    """Path below ``data/`` of a leaf's ``zarr.json``."""
    return f"{folder(leaf.path)}/{METADATA_KEY}"


def chunk_path(leaf: ManifestLeaf, indices: Sequence[int]) -> str:
    """Path below ``data/`` of a chunk."""
    return f"{folder(leaf.path)}/{chunk_key(indices)}"


def chunk_region(leaf: ManifestLeaf, indices: Sequence[int]) -> Region:
    """The region of the array that a chunk holds."""
    return tuple(
        slice(index * chunk, min((index + 1) * chunk, size))
        for index, chunk, size in zip(indices, leaf.chunk_shape, leaf.shape, strict=True)
    )


def chunks_of(leaf: ManifestLeaf, region: Region | None = None) -> Iterator[Indices]:
    """Indices of the chunks that overlap a region; default: of all chunks. An array without elements has no chunks."""
    if math.prod(leaf.shape) == 0:
        return iter(())
    region = whole(leaf.shape) if region is None else region
    ranges = (
        range(part.start // chunk, -(-part.stop // chunk)) for part, chunk in zip(region, leaf.chunk_shape, strict=True)
    )
    return itertools.product(*ranges)


def whole(shape: Sequence[int]) -> Region:
    """The region of the whole array."""
    return tuple(slice(0, size) for size in shape)


def shape_of(region: Region) -> list[int]:
    """The shape of a region."""
    return [part.stop - part.start for part in region]


def within(region: Region, outer: Region) -> Region:
    """A region relative to one that contains it."""
    return tuple(slice(part.start - own.start, part.stop - own.start) for part, own in zip(region, outer, strict=True))


def overlap(one: Region, other: Region) -> Region:
    """The elements that two regions share."""
    return tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))


def normal(index: Sequence[slice], shape: Sequence[int]) -> Region:
    """JAX's index of a shard, whose slices may lack start or stop, as a region."""
    return tuple(
        slice(part.start or 0, size if part.stop is None else part.stop)
        for part, size in zip(index, shape, strict=True)
    )


def expected_files(leaves: Sequence[ManifestLeaf]) -> set[str]:
    """Paths below ``data/`` of all files of a complete checkpoint of these leaves."""
    return {
        path for leaf in leaves for path in (metadata_path(leaf), *(chunk_path(leaf, at) for at in chunks_of(leaf)))
    }


def key_of(region: Region) -> RegionKey:
    """The key of a region."""
    return tuple((part.start, part.stop) for part in region)


@dataclass(frozen=True)
class Held:
    """A region and the processes that hold it, in ascending order."""

    region: Region
    processes: tuple[int, ...]


def who_holds(sharding: jax.sharding.Sharding, shape: Sequence[int]) -> tuple[Held, ...]:
    """The regions of an array with the processes that hold them, in the order of the sharding's devices.

    The same on every process.
    """
    holders: dict[RegionKey, set[int]] = {}
    device: Any
    for device, index in sharding.devices_indices_map(tuple(shape)).items():
        holders.setdefault(key_of(normal(index, shape)), set()).add(device.process_index)
    return tuple(Held(tuple(slice(*part) for part in key), tuple(sorted(each))) for key, each in holders.items())


def assign(sizes: Sequence[int], holders: Sequence[tuple[int, ...]], loads: dict[int, int]) -> list[int]:
    """Distribute pieces of work among the processes that hold them.

    Args:
        sizes: Size of each piece in bytes.
        holders: The processes that hold each piece.
        loads: Bytes already assigned to each process; updated in place.

    Returns:
        The process of each piece.
    """
    heaps: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    chosen = [-1] * len(sizes)
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        group = holders[number]
        if group not in heaps:
            heaps[group] = [(loads.get(process, 0), process) for process in group]
            heapq.heapify(heaps[group])
        heap = heaps[group]
        while heap[0][0] != loads.get(heap[0][1], 0):  # the process got work through another group
            heapq.heapreplace(heap, (loads[heap[0][1]], heap[0][1]))
        process = heap[0][1]
        chosen[number] = process
        loads[process] = loads.get(process, 0) + sizes[number]
        heapq.heapreplace(heap, (loads[process], process))
    return chosen
