"""Safetensors files: their format, and the tensors of a folder of them, read in rows.

A file begins with the size of its header, 8 bytes little-endian. The header has the type, the shape and the place of
each tensor; the bytes follow without gaps. See https://huggingface.co/docs/safetensors.

The library ``safetensors`` reads local files only, and writes a file from tensors that are all in memory: 1.5 GiB of
tensors of 64 MiB took it 1.5 GiB of memory, and take 0.13 GiB here in the same time. So the format is read and written
here, and the library is the reference of the tests.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store

SIZE_BYTES = 8
"""Bytes before the header: its size."""
LARGEST_HEADER_BYTES = 100_000_000
_DTYPES = {"F64": np.dtype("f8"), "F32": np.dtype("f4"), "F16": np.dtype("f2"), "BF16": np.dtype(jnp.bfloat16)}
NAMES = {dtype: name for name, dtype in _DTYPES.items()}
"""Names in a header, by type."""
_CODES = {"U8": np.dtype("u1"), "I8": np.dtype("i1"), "I32": np.dtype("i4"), "F8_E4M3": np.dtype(jnp.float8_e4m3fn)}
"""Types of the codes of weights in few bits (`halcyon.weights.narrow`)."""
_OTHER_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    "I16": 2,
    "U16": 2,
    "I32": 4,
    "U32": 4,
    "I64": 8,
    "U64": 8,
    "C64": 8,
}
"""Bytes of an element of the types that no parameter has.

A file may hold such tensors beside the parameters, such as masks.
"""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        file: The file's name.
        type: The type of its elements, as the header names it.
        shape: Its shape.
        start: Place of its first byte in the file.
    """

    file: str
    type: str
    shape: tuple[int, ...]
    start: int

    @property
    def is_readable(self) -> bool:
        """Whether its type is one of parameters."""
        return self.type in _DTYPES

    @property
    def dtype(self) -> np.dtype:
        """The type of its elements, if it is readable or one of codes."""
        return (_DTYPES | _CODES)[self.type]

    @property
    def size_bytes(self) -> int:
        """Bytes of its elements."""
        return size_of(self.type, self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row: one index of the first dimension."""
        return size_of(self.type, self.shape[1:])


def size_of(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor with elements of this type, as a header names it."""
    return math.prod(shape) * (_DTYPES[kind].itemsize if kind in _DTYPES else _OTHER_BYTES[kind])


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
        BadConfiguration: The header is damaged, or a tensor has a type of unknown size.
    """
    try:
        entries: dict[str, Any] = json.loads(data)
        entries.pop("__metadata__", None)
        found = {name: _parse(file, name, entry, SIZE_BYTES + len(data)) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadConfiguration(f"the header of {file} is damaged; copy the file again") from None
    end = SIZE_BYTES + len(data)
    for one in sorted(found.values(), key=lambda one: (one.start, one.size_bytes)):
        if one.start != end:
            raise BadConfiguration(
                f"the header of {file} is damaged: its tensors overlap or leave a gap; copy the file again"
            )
        end += one.size_bytes
    return found, end


def _parse(file: str, name: str, entry: Mapping[str, Any], first: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    if entry["dtype"] not in (*_DTYPES, *_OTHER_BYTES):
        raise unreadable(name, file, entry["dtype"])
    tensor = StoredTensor(file, entry["dtype"], tuple(int(size) for size in entry["shape"]), first + int(start))
    if tensor.size_bytes != end - start or any(size < 0 for size in tensor.shape):
        raise ValueError(name)
    return tensor


def unreadable(name: str, file: str, kind: object) -> BadConfiguration:
    """The error for a tensor of a type that cannot be imported."""
    what = f"the tensor {name} in {file} has the type {kind}"
    return BadConfiguration(f"{what}, which cannot be imported; convert the model to bfloat16 first")


def write_header(tensors: Sequence[tuple[str, np.dtype | str, tuple[int, ...]]]) -> bytes:
    """The bytes of a file before its first tensor.

    Args:
        tensors: Name, type (a text: as a header names it) and shape of each tensor, in the order of their bytes.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers requires the format
    end = 0
    for name, dtype, shape in tensors:
        kind = dtype if isinstance(dtype, str) else NAMES[dtype]
        first, end = end, end + size_of(kind, shape)
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [first, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % SIZE_BYTES)  # the tensors begin at a multiple of 8
    return len(header).to_bytes(SIZE_BYTES, "little") + header


def write_pieces(to: Store, name: str, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file from pieces that are read meanwhile.

    Raises:
        StoreFailure: The store did not answer. An error of the reading is raised as it is.
    """
    failed: list[Exception] = []

    def contents() -> Iterator[bytes | memoryview]:
        try:
            yield from pieces
        except Exception as error:
            failed.append(error)
            raise

    try:
        to.write(name, contents())
    except StoreFailure:
        if failed:
            raise failed[0] from None
        raise


SINGLE_KEY = "model.safetensors"
FILE_SECONDS = 3600.0
"""Longest time for one file: an export writes files of gigabytes."""
INDEX_KEY = "model.safetensors.index.json"


class TensorFiles:
    """The tensors of a folder. Creating it reads the headers only, and checks that each file is complete.

    Args:
        store: The folder.
        single: The only file, if it is not that of a model. A model may have several files.
        tensors: The tensors, if another document has listed them.

    Raises:
        BadConfiguration: A file is missing, truncated or damaged, or a tensor is in two files.
        StoreFailure: The store did not answer.
    """

    def __init__(
        self, store: Store, *, single: str | None = None, tensors: Mapping[str, StoredTensor] | None = None
    ) -> None:
        self.store = store
        self.tensors: dict[str, StoredTensor] = dict(tensors or {})
        """The tensors by their names in the files."""
        if tensors is not None:
            return
        files = _files(store) if single is None else {single: ()}
        for file, expected in files.items():
            found = _read_header(store, file)
            for name in expected:
                if name not in found:
                    raise BadConfiguration(
                        f"{INDEX_KEY} says that the tensor {name} is in {file}, but it is not; copy all files again"
                    )
            if twice := found.keys() & self.tensors.keys():
                name = min(twice)
                raise BadConfiguration(
                    f"{store.root}: the tensor {name} is in {self.tensors[name].file} and in {file}; delete the files "
                    "that are no part of the model, and copy the others again"
                )
            self.tensors |= found
        if single is None and SINGLE_KEY not in files and SINGLE_KEY in store.list(SINGLE_KEY):
            raise BadConfiguration(
                f"{store.root} has {SINGLE_KEY} and {INDEX_KEY}, which does not name it; delete the one that is no "
                "part of the model, because programs differ in which one they read"
            )

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """The rows [start, stop) of a tensor's first dimension.

        Raises:
            StoreFailure: The store did not answer.
        """
        tensor = self.tensors[name]
        data = self.data(name, start, stop)
        return np.frombuffer(data, tensor.dtype.newbyteorder("<")).reshape(stop - start, *tensor.shape[1:])

    def data(self, name: str, start: int, stop: int) -> bytes | memoryview:
        """The bytes of rows; see `rows`."""
        tensor = self.tensors[name]
        first, end = (tensor.start + number * tensor.row_bytes for number in (start, stop))
        return self.store.read_ranges([(tensor.file, first, end)])[0] if first < end else b""


def _files(store: Store) -> Mapping[str, Sequence[str]]:
    """The files of a folder, each with the tensors that it must have."""
    index = store.read(INDEX_KEY).data
    if index is None:
        if SINGLE_KEY not in store.list(SINGLE_KEY):
            raise BadConfiguration(
                f"{store.root} has neither {SINGLE_KEY} nor {INDEX_KEY}; give the folder of a model in safetensors "
                "files"
            )
        return {SINGLE_KEY: ()}
    files: dict[str, list[str]] = {}
    try:
        for name, file in json.loads(index)["weight_map"].items():
            files.setdefault(str(file), []).append(str(name))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadConfiguration(f"{store.root}/{INDEX_KEY} is damaged; copy it again") from None
    return files


def _read_header(store: Store, file: str) -> dict[str, StoredTensor]:
    where = f"{store.root}/{file}"
    length = header_size(where, _bytes(store, file, 0, SIZE_BYTES))
    found, end = parse_header(file, _bytes(store, file, SIZE_BYTES, SIZE_BYTES + length))
    _bytes(store, file, end - 1, end)
    if _bytes_or_none(store, file, end, end + 1) is not None:
        raise BadConfiguration(f"{where} is longer than the {end} bytes that its header says; copy it again")
    return found


def _bytes(store: Store, file: str, start: int, end: int) -> bytes:
    data = _bytes_or_none(store, file, start, end)
    if data is None:
        where = f"{store.root}/{file}"
        raise BadConfiguration(f"{where} is missing or truncated: it must have at least {end} bytes; copy it again")
    return data


def _bytes_or_none(store: Store, file: str, start: int, end: int) -> bytes | None:
    """A part of a file; None: the file ends before it, or is missing."""
    try:
        return store.read_ranges([(file, start, end)])[0]
    except StoreFailure as failure:
        if failure.code not in ("NOT_FOUND", "OUT_OF_RANGE"):
            raise
        return None


_INFINITIES = {np.dtype(kind): int(np.array(np.inf, kind).view(np.int16)) for kind in (np.float16, jnp.bfloat16)}
"""The bits of infinity."""


def is_finite(values: np.ndarray) -> bool:
    """Whether no number is NaN or infinite, in an array of a floating-point type.

    NumPy tests the numbers of narrow types one by one. Their bits without the sign are in the order of the numbers,
    with infinity and NaN at the end, so the largest bits are compared with those of infinity: 2 to 4 times as fast.
    """
    infinity = _INFINITIES.get(values.dtype)
    if infinity is None or not values.size:
        return bool(np.isfinite(values).all())
    return bool((values.view(np.int16) & np.iinfo(np.int16).max).max() < infinity)
