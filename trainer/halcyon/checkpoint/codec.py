"""Encodes arrays as Zarr v3 files with TensorStore, with ``crc32c`` as the last codec of every chunk; and decodes them.

TensorStore encodes into a key-value store in memory, so the bytes are known, and hashed for the manifest, before they
are sent to a store. A file is the chunk's own memory followed by its checksum; only the checksum is taken from
TensorStore. A test reads the files with TensorStore. The hash is checked before a file is decoded, so decoding is only
a view: decoding with TensorStore would make three copies into fresh memory and cost more than the rest of a restore.
The ``crc32c`` is for other Zarr readers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from halcyon.checkpoint.layout import METADATA_KEY, chunk_key, chunk_region, shape_of
from halcyon_api.checkpoint_documents import ManifestLeaf

_CRC_BYTES = 4


def zarr_metadata(leaf: ManifestLeaf) -> dict[str, Any]:
    """Zarr v3 metadata of a leaf."""
    metadata: dict[str, Any] = {
        "shape": list(leaf.shape),
        "data_type": leaf.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(leaf.chunk_shape)}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }
    if leaf.axes is not None:
        metadata["dimension_names"] = list(leaf.axes)
    return metadata


class Codecs:
    """The codecs of a state's leaves: one for each form of array and thread, because a state may have 100,000 leaves of
    few forms.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def of(self, leaf: ManifestLeaf) -> LeafCodec:
        """The calling thread's codec for a leaf.

        Raises:
            ValueError: Zarr does not support the dtype.
        """
        known: dict[Any, LeafCodec] = self._of_thread.__dict__
        form = str((leaf.shape, leaf.dtype, leaf.chunk_shape, leaf.axes))
        if form not in known:
            known[form] = LeafCodec(leaf)
        return known[form]


class LeafCodec:
    """Encodes the chunks of leaves of one form, in one thread.

    Raises:
        ValueError: Zarr does not support the dtype.
    """

    def __init__(self, leaf: ManifestLeaf) -> None:
        context = ts.Context()
        memory = {"driver": "memory"}
        spec = {
            "driver": "zarr3",
            "kvstore": memory,
            "metadata": zarr_metadata(leaf),
            "store_data_equal_to_fill_value": True,  # otherwise a chunk of zeros has no file
        }
        self._leaf = leaf
        self._files = ts.KvStore.open(memory, context=context).result()
        self._array = ts.open(spec, context=context, create=True).result()

    def metadata(self) -> bytes:
        """Content of ``zarr.json``."""
        return self._files.read(METADATA_KEY).result().value

    def encode(self, indices: Sequence[int], chunk: np.ndarray) -> tuple[memoryview, bytes]:
        """The file of a chunk, in two pieces: the chunk's own memory, which must not change until it is written, and
        the checksum.
        """
        key = chunk_key(indices)
        chunk = np.asarray(chunk, chunk.dtype.newbyteorder("<"), order="C")
        self._array[chunk_region(self._leaf, indices)].write(
            chunk, can_reference_source_data_indefinitely=True
        ).result()
        checksum = self._files.read(key, byte_range=slice(chunk.nbytes, None)).result().value
        self._files.write(key, None).result()
        return chunk.reshape(-1).view(np.uint8).data, checksum


def decode(leaf: ManifestLeaf, indices: Sequence[int], data: bytes, dtype: np.dtype) -> np.ndarray:
    """The chunk of a file whose hash has been checked: a view of the bytes, without the checksum at the end.

    Raises:
        ValueError: The file does not have the size of the chunk and its checksum.
    """
    shape = shape_of(chunk_region(leaf, indices))
    if len(data) != math.prod(shape) * dtype.itemsize + _CRC_BYTES:
        raise ValueError(f"{len(data)} bytes are no {dtype.name}{shape} with a checksum")
    return np.frombuffer(data, dtype.newbyteorder("<"), math.prod(shape)).reshape(shape)
