"""Arrays to the bytes of Zarr v3 files and back, by TensorStore, with ``crc32c`` as the last codec of every chunk.

The encoding happens against a key-value store in memory, so that the bytes are known (and hashed for the manifest) before any store sees
them, and are checked against that hash before anything decodes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from halcyon.checkpoint.layout import METADATA_KEY, chunk_key, chunk_region
from halcyon_api.checkpoint_documents import ManifestLeaf


def zarr_metadata(leaf: ManifestLeaf) -> dict[str, Any]:
    """The Zarr v3 metadata of a leaf."""
    metadata: dict[str, Any] = {
        "shape": list(leaf.shape),
        "data_type": leaf.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(leaf.chunk_shape)}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }
    if leaf.axes is not None:
        metadata["dimension_names"] = list(leaf.axes)
    return metadata


class LeafCodec:
    """Encodes and decodes the chunks of one leaf. Threads may share it as long as they work on different chunks.

    Raises:
        ValueError: Zarr has no such type of elements.
    """

    def __init__(self, leaf: ManifestLeaf) -> None:
        context = ts.Context()
        memory = {"driver": "memory"}
        spec = {
            "driver": "zarr3",
            "kvstore": memory,
            "metadata": zarr_metadata(leaf),
            "store_data_equal_to_fill_value": True,  # else a chunk of zeros would have no file
        }
        self._leaf = leaf
        self._files: ts.KvStore = ts.KvStore.open(memory, context=context).result()
        self._array: ts.TensorStore = ts.open(spec, context=context, create=True).result()

    def metadata(self) -> bytes:
        """Content of ``zarr.json``."""
        return self._files.read(METADATA_KEY).result().value

    def encode(self, indices: Sequence[int], chunk: np.ndarray) -> bytes:
        """The file of a chunk."""
        key = chunk_key(indices)
        self._array[chunk_region(self._leaf, indices)].write(chunk).result()
        data = self._files.read(key).result().value
        self._files.write(key, None).result()
        return data

    def decode(self, indices: Sequence[int], data: bytes) -> np.ndarray:
        """The chunk of a file.

        Raises:
            ValueError: The bytes do not fit the leaf or their checksum.
        """
        key = chunk_key(indices)
        self._files.write(key, data).result()
        chunk = self._array[chunk_region(self._leaf, indices)].read().result()
        self._files.write(key, None).result()
        return chunk
