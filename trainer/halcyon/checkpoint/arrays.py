"""The arrays of one checkpoint on one machine: read whole or by region, and compared with those of another one.

Two checkpoints are compared array by array. Files are first compared by the hashes in the manifests, so only the chunks
that differ are read if both checkpoints have the same chunks. Elements are compared bit for bit: two NaNs with the same
bits are equal, 0.0 and -0.0 are not.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from halcyon.checkpoint.codec import decode
from halcyon.checkpoint.layout import Indices, Region, chunk_path, chunk_region, chunks_of, overlap, shape_of, within
from halcyon.checkpoint.verify import Damaged, read_file, read_manifest
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import CommittedStep, ManifestFile, ManifestLeaf

KEPT_BYTES = 1 << 30
"""Chunks that are kept in memory, because the regions of neighbouring layers lie in the same chunk."""
MODEL_PREFIX = "model."
"""How the paths of a model's parameters begin in a checkpoint."""
EMA_PREFIX, SNAPSHOTS_PREFIX, COUNT_PATH = "average.model.", "average.snapshots.", "average.count"
"""Paths of an average of the parameters in a checkpoint (`halcyon.optim.average`)."""


class Checkpoint:
    """A committed checkpoint, open for reading.

    Args:
        store: The root.
        entry: The checkpoint's entry in HEAD.

    Raises:
        Damaged: The manifest is damaged.
        StoreFailure: The store did not answer.
    """

    def __init__(self, store: Store, entry: CommittedStep) -> None:
        self.entry = entry
        self.manifest = read_manifest(store, entry)
        self._store = store
        self._files = {file.path: file for file in self.manifest.files}

    @property
    def leaves(self) -> dict[str, ManifestLeaf]:
        """The arrays by path."""
        return {leaf.path: leaf for leaf in self.manifest.leaves}

    def file(self, leaf: ManifestLeaf, indices: Indices) -> ManifestFile:
        """The file of a chunk."""
        return self._files[chunk_path(leaf, indices)]

    def size_bytes(self, leaf: ManifestLeaf) -> int:
        """Size of an array's files."""
        return sum(self.file(leaf, indices).size_bytes for indices in chunks_of(leaf))

    def chunk(self, leaf: ManifestLeaf, indices: Indices) -> np.ndarray:
        """The elements of a chunk, verified.

        Raises:
            Damaged: The file is damaged.
        """
        file = self.file(leaf, indices)
        try:
            return decode(leaf, indices, read_file(self._store, self.entry.path, file), np.dtype(leaf.dtype))
        except ValueError as error:
            raise Damaged(f"data/{file.path} cannot be decoded: {error}") from None

    def array(self, leaf: ManifestLeaf) -> np.ndarray:
        """All elements of an array, verified."""
        whole = np.empty(leaf.shape, leaf.dtype)
        for indices in chunks_of(leaf):
            whole[chunk_region(leaf, indices)] = self.chunk(leaf, indices)
        return whole


@dataclass(frozen=True)
class LeafDifference:
    """An array that differs between two checkpoints."""

    path: str
    what: str
    """The kind of difference, for users: only in one checkpoint, another type or shape, or other values."""
    elements: int = 0
    """Number of elements that differ, if both arrays have the same shape and type."""
    of: int = 0
    """Number of all elements."""
    largest: float = 0.0
    """Largest absolute difference of two elements; NaN if one of a pair is NaN and the other is not."""


def compare(first: Checkpoint, second: Checkpoint) -> Iterator[LeafDifference]:
    """The arrays that differ, in the order of their paths.

    Raises:
        Damaged: A file is damaged.
        StoreFailure: The store did not answer.
    """
    here, there = first.leaves, second.leaves
    for path in sorted(here.keys() | there.keys()):
        if path not in there:
            yield LeafDifference(path, "only in the first")
        elif path not in here:
            yield LeafDifference(path, "only in the second")
        elif here[path].dtype != there[path].dtype:
            yield LeafDifference(path, f"{here[path].dtype} in the first, {there[path].dtype} in the second")
        elif here[path].shape != there[path].shape:
            yield LeafDifference(
                path, f"shape {list(here[path].shape)} in the first, {list(there[path].shape)} in the second"
            )
        else:
            difference = _values(first, second, here[path], there[path])
            if difference.elements:
                yield difference


def _values(first: Checkpoint, second: Checkpoint, here: ManifestLeaf, there: ManifestLeaf) -> LeafDifference:
    elements, largest = 0, 0.0
    for one, other in ((np.atleast_1d(one), np.atleast_1d(other)) for one, other in _pairs(first, second, here, there)):
        unequal = _bits(one) != _bits(other)
        count = int(np.count_nonzero(unequal))
        if count:
            elements += count
            with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are valid values here
                gaps = np.abs(one[unequal].astype(np.float64) - other[unequal].astype(np.float64))
            largest = float(np.maximum(largest, gaps.max()))
    return LeafDifference(here.path, "values", elements, int(np.prod(here.shape, dtype=np.int64)), largest)


def _pairs(
    first: Checkpoint, second: Checkpoint, here: ManifestLeaf, there: ManifestLeaf
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pieces of both arrays that may differ."""
    if here.chunk_shape != there.chunk_shape:
        yield first.array(here), second.array(there)
        return
    for indices in chunks_of(here):
        if first.file(here, indices).sha256 != second.file(there, indices).sha256:
            yield first.chunk(here, indices), second.chunk(there, indices)


def _bits(array: np.ndarray) -> np.ndarray:
    """The elements as unsigned integers of the same bits."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}") if array.dtype.kind != "b" else array


class ModelArrays:
    """The parameters of the model in a checkpoint, by their paths in the model. Several threads may read.

    Args:
        checkpoint: The checkpoint.
        kept_bytes: Bytes of chunks that are kept in memory.
    """

    def __init__(self, checkpoint: Checkpoint, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._checkpoint, self._kept_bytes = checkpoint, kept_bytes
        self.entry = checkpoint.entry
        self.leaves = below(checkpoint, MODEL_PREFIX)
        """The manifest's entries of the parameters."""
        self._chunks: OrderedDict[tuple[str, Indices], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, path: str, region: Region) -> np.ndarray:
        """A region of a parameter; see `read_stored`."""
        return self.read_stored(path, region)

    def read_stored(self, path: str, region: Region) -> np.ndarray:
        """A region of an array of the checkpoint, every byte verified. Rows beyond the array, of a vocabulary with more
        padding, are zero.

        Raises:
            Damaged: A file is damaged.
            StoreFailure: The store did not answer.
        """
        return self._read(self.leaves[path], region)

    def _read(self, leaf: ManifestLeaf, region: Region) -> np.ndarray:
        result = np.zeros(shape_of(region), jnp.dtype(leaf.dtype))
        inside = tuple(
            slice(min(part.start, size), min(part.stop, size)) for part, size in zip(region, leaf.shape, strict=True)
        )
        if any(part.start == part.stop for part in inside):
            return result
        for indices in chunks_of(leaf, inside):
            whole = chunk_region(leaf, indices)
            both = overlap(inside, whole)
            result[within(both, region)] = self._chunk(leaf, indices)[within(both, whole)]
        return result

    def release(self) -> None:
        """Drop the chunks that are kept in memory."""
        with self._lock:
            self._chunks.clear()
            self._bytes = 0

    def _chunk(self, leaf: ManifestLeaf, indices: Indices) -> np.ndarray:
        key = leaf.path, indices
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
        chunk = self._checkpoint.chunk(leaf, indices)
        with self._lock:
            if key not in self._chunks:
                self._chunks[key] = chunk
                self._bytes += chunk.nbytes
                while self._bytes > self._kept_bytes and len(self._chunks) > 1:
                    self._bytes -= self._chunks.popitem(last=False)[1].nbytes
        return chunk


def below(checkpoint: Checkpoint, prefix: str) -> dict[str, ManifestLeaf]:
    """The arrays whose paths begin with the prefix, by the rest of their paths."""
    return {path.removeprefix(prefix): leaf for path, leaf in checkpoint.leaves.items() if path.startswith(prefix)}


class AverageArrays(ModelArrays):
    """The average of the parameters in a checkpoint, in the place of the parameters.

    Raises:
        NoAverage: The checkpoint has none, or its mean has no model yet.
        Damaged: A file is damaged.
        StoreFailure: The store did not answer.
    """

    def __init__(self, checkpoint: Checkpoint, *, kept_bytes: int = KEPT_BYTES) -> None:
        super().__init__(checkpoint, kept_bytes=kept_bytes)
        self._snapshots = below(checkpoint, SNAPSHOTS_PREFIX)
        if COUNT_PATH not in checkpoint.leaves:
            raise NoAverage("it has no average of the parameters, because its run had no spec.average")
        count = int(checkpoint.chunk(checkpoint.leaves[COUNT_PATH], ()))
        if not self._snapshots:
            self.leaves = below(checkpoint, EMA_PREFIX)
        elif count == 0:
            raise NoAverage("its average has no model yet, because spec.average.lastK.everySteps steps are not done")
        self._count = count

    def read(self, path: str, region: Region) -> np.ndarray:
        """A region of the average of a parameter. The mean of the last models is a float32 sum, divided once."""
        if not self._snapshots:
            return super().read(path, region)
        leaf = self._snapshots[path]
        held = min(self._count, leaf.shape[0])
        total = np.zeros(shape_of(region), np.float32)
        for number in range(held):
            total += self._read(leaf, (slice(number, number + 1), *region))[0].astype(np.float32)
        return (total / np.float32(held)).astype(jnp.dtype(leaf.dtype))


class NoAverage(ValueError):
    """A checkpoint has no average of the parameters; the message says why."""
