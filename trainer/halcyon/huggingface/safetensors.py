"""The format of safetensors files: a header in JSON, then the bytes of the tensors.

A file begins with the size of its header, 8 bytes little-endian. The header has the type, the shape and the place of each tensor; the bytes
follow without gaps. See https://huggingface.co/docs/safetensors. The library ``safetensors`` reads whole local files only, and writes a
file from tensors that are all in memory, so the format is read and written here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from halcyon.errors import BadConfiguration

SIZE_BYTES = 8
"""Bytes before the header: its size."""
LARGEST_HEADER_BYTES = 100_000_000
_DTYPES = {"F64": np.dtype("f8"), "F32": np.dtype("f4"), "F16": np.dtype("f2"), "BF16": np.dtype(jnp.bfloat16)}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        file: The file's name.
        dtype: The type of its elements.
        shape: Its shape.
        start: Place of its first byte in the file.
    """

    file: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of a row: one index of the first dimension."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def header_size(file: str, data: bytes) -> int:
    """Bytes of a file's header, from the first 8 bytes of the file.

    Raises:
        BadConfiguration: The file is no safetensors file.
    """
    size = int.from_bytes(data, "little")
    if len(data) < SIZE_BYTES or not 0 < size <= LARGEST_HEADER_BYTES:
        raise BadConfiguration(f"{file} is no safetensors file; copy it again")
    return size


def parse_header(file: str, data: bytes) -> tuple[dict[str, StoredTensor], int]:
    """The tensors of a file, from its header.

    Returns:
        The tensors by name, and the size of the whole file in bytes.

    Raises:
        BadConfiguration: The header is damaged, or a tensor has a type that cannot be imported.
    """
    try:
        entries: dict[str, Any] = json.loads(data)
        entries.pop("__metadata__", None)
        found = {name: _parse(file, name, entry, SIZE_BYTES + len(data)) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadConfiguration(f"the header of {file} is damaged; copy the file again") from None
    end = SIZE_BYTES + len(data)
    for one in sorted(found.values(), key=lambda one: (one.start, one.size_bytes)):
        if one.start != end:
            raise BadConfiguration(f"the header of {file} is damaged: its tensors overlap or leave a gap; copy the file again")
        end += one.size_bytes
    return found, end


def _parse(file: str, name: str, entry: Mapping[str, Any], first: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    if entry["dtype"] not in _DTYPES:
        raise BadConfiguration(
            f"the tensor {name} in {file} has the type {entry['dtype']}, which cannot be imported; convert the model to bfloat16 first"
        )
    tensor = StoredTensor(file, _DTYPES[entry["dtype"]], tuple(int(size) for size in entry["shape"]), first + int(start))
    if tensor.size_bytes != end - start or any(size < 0 for size in tensor.shape):
        raise ValueError(name)
    return tensor


def write_header(tensors: Sequence[tuple[str, np.dtype, tuple[int, ...]]]) -> bytes:
    """The bytes of a file before its first tensor.

    Args:
        tensors: Name, type and shape of each tensor, in the order of their bytes.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers requires the format
    end = 0
    for name, dtype, shape in tensors:
        size = math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % SIZE_BYTES)  # the tensors begin at a multiple of 8
    return len(header).to_bytes(SIZE_BYTES, "little") + header
