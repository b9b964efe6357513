"""Reading arrays from a checkpoint into any sharding, by global index ranges.

Each process works out which regions its devices need, takes the chunks that overlap them, and checks every file against the manifest before
decoding it. How the writer had split the arrays matters only for which files those are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from halcyon.checkpoint.codec import decode
from halcyon.checkpoint.layout import Leaf, Region, chunk_key, chunk_region, chunks_of, flatten, folder, normal, unflatten, whole
from halcyon.checkpoint.parts import in_parallel
from halcyon.checkpoint.store import Store
from halcyon.checkpoint.verify import Damaged, read_file
from halcyon_api.checkpoint_documents import Manifest, ManifestFile, ManifestLeaf

_Key = tuple[tuple[int, int], ...]


class OtherState(Exception):
    """The arrays of the checkpoint are not those that are wanted; the message names one that differs."""


def match_leaves(manifest: Manifest, template: Any) -> tuple[tuple[ManifestLeaf, Leaf], ...]:
    """Pair the arrays of a checkpoint with those of a template, by path.

    Raises:
        OtherState: One is missing on a side, or has another shape or type.
    """
    saved = {leaf.path: leaf for leaf in manifest.leaves}
    wanted = flatten(template)
    for leaf in wanted:
        if leaf.path not in saved:
            raise OtherState(f"the state has an array {leaf.path} that the checkpoint has not")
        there = saved[leaf.path]
        if (there.shape, there.dtype) != (leaf.shape, leaf.dtype.name):
            raise OtherState(
                f"the state's array {leaf.path} is {leaf.dtype.name}{list(leaf.shape)}, the checkpoint's is "
                f"{there.dtype}{list(there.shape)}"
            )
    surplus = set(saved) - {leaf.path for leaf in wanted}
    if surplus:
        raise OtherState(f"the checkpoint has an array {min(surplus)} that the state has not")
    return tuple((saved[leaf.path], leaf) for leaf in wanted)


def read_state(store: Store, prefix: str, manifest: Manifest, template: Any) -> Any:
    """Read a state.

    Args:
        store: The root.
        prefix: Prefix of the checkpoint.
        manifest: Its manifest, checked.
        template: Tree of ``jax.ShapeDtypeStruct`` with shardings, or of arrays. What has no sharding is read into a NumPy array.

    Returns:
        A tree like the template, every array in its sharding.

    Raises:
        Damaged: A file is not what was written.
        OtherState: The arrays are not those of the template.
        StoreFailure: The store did not answer.
    """
    files = {file.path: file for file in manifest.files}
    readers = [_LeafReader(store, prefix, files, there, leaf) for there, leaf in match_leaves(manifest, template)]
    jobs = [job for reader in readers for job in reader.jobs()]
    in_parallel(jobs)
    return unflatten(template, [reader.array() for reader in readers])


class _LeafReader:
    """Fills the regions of one leaf that this process's devices need."""

    def __init__(self, store: Store, prefix: str, files: dict[str, ManifestFile], there: ManifestLeaf, leaf: Leaf) -> None:
        self._store, self._prefix, self._files, self._there, self._leaf = store, prefix, files, there, leaf
        sharding = leaf.sharding
        self._sharding = sharding
        self._devices: list[tuple[Any, _Key]] = []
        self._regions: dict[_Key, Region] = {}
        indices: Sequence[tuple[Any, Any]] = (
            [(None, ())] if sharding is None else list(sharding.addressable_devices_indices_map(leaf.shape).items())
        )
        for device, index in indices:
            region = whole(leaf.shape) if device is None else normal(index or (), leaf.shape)
            key = tuple((part.start, part.stop) for part in region)
            self._regions[key] = region
            self._devices.append((device, key))
        self._filled: dict[_Key, np.ndarray] = {}

    def jobs(self) -> list[Callable[[], None]]:
        """One job for each chunk that is needed. They may run side by side: no two write the same elements."""
        needed: dict[tuple[int, ...], list[_Key]] = {}
        for key, region in self._regions.items():
            chunks = list(chunks_of(self._there, region))
            for indices in chunks:
                needed.setdefault(indices, []).append(key)
            if len(chunks) != 1 or chunk_region(self._there, chunks[0]) != region:
                self._filled[key] = np.empty([part.stop - part.start for part in region], self._leaf.dtype)
        return [lambda indices=indices, keys=keys: self._fill(indices, keys) for indices, keys in needed.items()]

    def _fill(self, indices: tuple[int, ...], keys: list[_Key]) -> None:
        path = f"{folder(self._there.path)}/{chunk_key(indices)}"
        data = read_file(self._store, self._prefix, self._files[path])
        try:
            chunk = decode(self._there, indices, data, self._leaf.dtype)
        except ValueError as error:
            raise Damaged(f"data/{path} cannot be decoded: {str(error)[:200]}") from None
        held = chunk_region(self._there, indices)
        for key in keys:
            region = self._regions[key]
            if key not in self._filled:
                self._filled[key] = chunk  # the region is this chunk
                continue
            shared = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(held, region, strict=True)]
            source = tuple(slice(part.start - own.start, part.stop - own.start) for part, own in zip(shared, held, strict=True))
            target = tuple(slice(part.start - own.start, part.stop - own.start) for part, own in zip(shared, region, strict=True))
            self._filled[key][target] = chunk[source]

    def array(self) -> Any:
        """The leaf, on its devices."""
        if self._sharding is None:
            return np.array(self._filled[self._devices[0][1]])  # the user's own, and writable
        shards = [jax.device_put(self._filled[key], device) for device, key in self._devices]
        return jax.make_array_from_single_device_arrays(self._leaf.shape, self._sharding, shards)
