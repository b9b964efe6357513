"""Stores arrays that are derived from a cache and take time to compute, in parts, so that a transfer holds only one
part in memory.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping

import numpy as np

from halcyon.host.errors import DamagedData
from halcyon.host.storage.store import Store

LARGE_BYTES = 64 * 2**20

PART_BYTES = 64 * 2**20
_INDEX = "INDEX.json"


def scratch_array(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An uninitialized array. A large one, such as the ends of all documents, is in a file in the folder for temporary
    files; the file is deleted with the array.

    Eight bytes per document are 2.3 GB for a terabyte of text in documents of a few kilobytes. The system can drop
    pages of a mapped file at any time, but not a process's own memory.
    """
    if math.prod(shape) * np.dtype(dtype).itemsize <= LARGE_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as stream:
        return np.asarray(np.memmap(stream, dtype, mode="w+", shape=shape))


def store_arrays(store: Store, prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of integers below a prefix. The index is written last; the arrays exist only when it exists.

    Args:
        store: The cache's root.
        prefix: A name that contains a hash of all inputs of the arrays; ends with a slash.
        arrays: Arrays by name: integers, one axis.
    """
    index: dict[str, object] = {}
    for name, array in arrays.items():
        little = array.dtype.newbyteorder("<")
        step = PART_BYTES // array.itemsize
        digests: list[str] = []
        for number, start in enumerate(range(0, len(array), step)):
            content = array[start : start + step].astype(little, copy=False).tobytes()
            store.write(_part(prefix, name, number), content)
            digests.append(hashlib.sha256(content).hexdigest())
        index[name] = {"type": little.str, "length": len(array), "step": step, "sha256": digests}
    store.create(f"{prefix}{_INDEX}", json.dumps(index, sort_keys=True).encode())


def load_arrays(store: Store, prefix: str) -> dict[str, np.ndarray] | None:
    """The arrays below a prefix, large ones on disk; None: no arrays were stored.

    Raises:
        DamagedData: They differ from what was written.
    """
    content = store.read(f"{prefix}{_INDEX}").data
    if content is None:
        return None
    try:
        index = json.loads(content)
        return {name: _read(store, prefix, name, entry) for name, entry in index.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedData(f"{prefix} of the token cache is damaged; delete it, and it is made again") from None


def _read(store: Store, prefix: str, name: str, entry: Mapping[str, object]) -> np.ndarray:
    dtype, length, step, digests = np.dtype(str(entry["type"])), entry["length"], entry["step"], entry["sha256"]
    if (
        dtype.kind not in "iu"
        or not isinstance(length, int)
        or not isinstance(step, int)
        or not isinstance(digests, list)
        or len(digests) * step < length
    ):
        raise ValueError(name)
    array = scratch_array((length,), dtype)
    for number, digest in enumerate(digests):
        content = store.read(_part(prefix, name, number)).data
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(name)
        array[number * step : (number + 1) * step] = np.frombuffer(content, dtype)
    return array


def _part(prefix: str, name: str, number: int) -> str:
    return f"{prefix}{name}.{number:06d}"
