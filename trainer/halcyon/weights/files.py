"""The tensors of a folder's safetensors files, read in rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from halcyon.errors import BadConfiguration
from halcyon.storage.failures import StoreFailure
from halcyon.storage.store import Store
from halcyon.weights.safetensors import SIZE_BYTES, StoredTensor, header_size, parse_header

SINGLE_KEY = "model.safetensors"
FILE_SECONDS = 3600.0
"""Longest time for one file: an export writes files of gigabytes."""
INDEX_KEY = "model.safetensors.index.json"


class TensorFiles:
    """The tensors of a folder. Creating it reads the headers only, and checks that each file is complete.

    Args:
        store: The folder.
        single: The only file, if it is not that of a model. A model may have several files.

    Raises:
        BadConfiguration: A file is missing, truncated or damaged, or a tensor is in two files.
        StoreFailure: The store did not answer.
    """

    def __init__(self, store: Store, *, single: str | None = None) -> None:
        self._store = store
        self.tensors: dict[str, StoredTensor] = {}
        """The tensors by their names in the files."""
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
                    "that are no part of "
                    "the model, and copy the others again"
                )
            self.tensors |= found
        if single is None and SINGLE_KEY not in files and SINGLE_KEY in store.list(SINGLE_KEY):
            raise BadConfiguration(
                f"{store.root} has {SINGLE_KEY} and {INDEX_KEY}, which does not name it; delete the one that is no "
                "part of the model, "
                "because programs differ in which one they read"
            )

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """The rows [start, stop) of a tensor's first dimension.

        Raises:
            StoreFailure: The store did not answer.
        """
        tensor = self.tensors[name]
        first = tensor.start + start * tensor.row_bytes
        size = (stop - start) * tensor.row_bytes
        data = self._store.read_ranges([(tensor.file, first, first + size)])[0] if size else b""
        return np.frombuffer(data, tensor.dtype.newbyteorder("<")).reshape(stop - start, *tensor.shape[1:])


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
    if _has_byte(store, file, end):
        raise BadConfiguration(f"{where} is longer than the {end} bytes that its header says; copy it again")
    return found


def _has_byte(store: Store, file: str, at: int) -> bool:
    try:
        store.read_ranges([(file, at, at + 1)])
    except StoreFailure as failure:
        if failure.code not in ("NOT_FOUND", "OUT_OF_RANGE"):
            raise
        return False
    return True


def _bytes(store: Store, file: str, start: int, end: int) -> bytes:
    try:
        return store.read_ranges([(file, start, end)])[0]
    except StoreFailure as failure:
        if failure.code not in ("NOT_FOUND", "OUT_OF_RANGE"):
            raise
        raise _truncated(f"{store.root}/{file}", end) from None


def _truncated(where: str, end: int) -> BadConfiguration:
    return BadConfiguration(f"{where} is missing or truncated: it must have at least {end} bytes; copy it again")
