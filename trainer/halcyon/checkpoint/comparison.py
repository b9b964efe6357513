"""Compares two checkpoints, array by array.

Files are first compared by the hashes in the manifests, so only the chunks that differ are read if both checkpoints
have the same chunks. Elements are compared bit for bit: two NaNs with the same bits are equal, 0.0 and -0.0 are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from halcyon.checkpoint.codec import decode
from halcyon.checkpoint.layout import chunk_key, chunk_region, chunks_of, folder
from halcyon.checkpoint.verify import Damaged, read_file, read_manifest
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import CommittedStep, Manifest, ManifestFile, ManifestLeaf


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
        self.manifest: Manifest = read_manifest(store, entry)
        self._store = store
        self._files: dict[str, ManifestFile] = {file.path: file for file in self.manifest.files}

    @property
    def leaves(self) -> dict[str, ManifestLeaf]:
        """The arrays by path."""
        return {leaf.path: leaf for leaf in self.manifest.leaves}

    def file(self, leaf: ManifestLeaf, indices: tuple[int, ...]) -> ManifestFile:
        """The file of a chunk."""
        return self._files[f"{folder(leaf.path)}/{chunk_key(indices)}"]

    def size_bytes(self, leaf: ManifestLeaf) -> int:
        """Size of an array's files."""
        return sum(self.file(leaf, indices).size_bytes for indices in chunks_of(leaf))

    def chunk(self, leaf: ManifestLeaf, indices: tuple[int, ...]) -> np.ndarray:
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
