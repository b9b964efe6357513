"""Values that a Parquet file has once and repeats: how large they are in memory, before they are decoded.

A file of 100 KB can have one text of 100 KB in a dictionary and name it in each of 30,000 rows: 3 GB. Arrow can read
such columns with their dictionaries, as they are in the file. Then the size of each row is known, and tables are cut
before a value is repeated.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import FileMetaData

from halcyon.data.sources.failures import Unreadable

MOST_BYTES = 64 * 2**20
"""Bytes of values that are decoded at once, and of a row that is larger than its file."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_ROW_BYTES = 32
"""Bytes that a row counts at least: millions of short ones must not be in one piece."""
_VALUE_BYTES = 8
"""Bytes of a value beside its text: an offset, a number, or its place in a list."""


class Expands(Exception):
    """Row groups are larger in memory than may be decoded at once."""


def group_bytes(metadata: FileMetaData, group: int, columns: Iterable[int]) -> int:
    """Bytes of some columns of a row group in memory, with each text counted once."""
    row_group = metadata.row_group(group)
    chunks = [row_group.column(column) for column in columns]
    values = sum(
        max(chunk.total_uncompressed_size, chunk.num_values * _WIDTHS.get(chunk.physical_type, 1)) for chunk in chunks
    )
    return max(values, row_group.num_rows * _ROW_BYTES)


def may_expand(metadata: FileMetaData, groups: Iterable[int], columns: Sequence[int]) -> bool:
    """Whether some columns of row groups may have more than `MOST_BYTES` in memory, because their texts are
    repeated.
    """
    most = 0
    for group in groups:
        row_group = metadata.row_group(group)
        for chunk in (row_group.column(column) for column in columns):
            if chunk.physical_type == "BYTE_ARRAY" and any("DICTIONARY" in encoding for encoding in chunk.encodings):
                most += chunk.num_values * chunk.total_uncompressed_size
    return most > MOST_BYTES


def row_bytes(table: pa.Table | pa.RecordBatch) -> np.ndarray:
    """Bytes of each row of a table, with its texts repeated: int64 [rows]."""
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        if chunks:
            sizes += np.concatenate([_value_bytes(chunk) for chunk in chunks])
    return sizes


def cut_rows(
    tables: Iterable[pa.Table | pa.RecordBatch], target_bytes: int, stored_bytes: int, file: str
) -> Iterator[Any]:
    """Tables cut between rows, so that each has about `target_bytes` or one row.

    Args:
        tables: The tables.
        target_bytes: Wanted bytes.
        stored_bytes: Bytes of the row group in the file, without compression.
        file: The file, for messages.

    Raises:
        Unreadable: A row has more than `MOST_BYTES`, and is several times larger than its row group.
    """
    number = 0
    for table in tables:
        sizes = row_bytes(table)
        large = np.flatnonzero(sizes > max(MOST_BYTES, 4 * stored_bytes))
        if len(large):
            raise Unreadable(
                f"{file} has a row of {int(sizes[large[0]]) >> 20} MiB at place {number + int(large[0])} of a row "
                f"group of {stored_bytes:,} bytes, because it repeats a text many times; leave the file out, or write "
                "the row in parts"
            )
        ends = np.cumsum(sizes)
        start = 0
        while start < table.num_rows:
            before = int(ends[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(ends, before + target_bytes, side="right")))
            yield table.slice(start, end - start)
            start = end
        number += table.num_rows


def _value_bytes(array: Any) -> np.ndarray:
    """Bytes of each value of an array: int64 [values]."""
    kind, count = array.type, len(array)
    if pa.types.is_dictionary(kind):
        of_value = _value_bytes(array.dictionary)
        places = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return of_value[places] if len(of_value) else np.full(count, _VALUE_BYTES, np.int64)
    if pa.types.is_struct(kind):
        fields = [_value_bytes(array.field(number)) for number in range(kind.num_fields)]
        return np.sum([np.full(count, _VALUE_BYTES, np.int64), *fields], axis=0)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        members = (array.keys, array.items) if pa.types.is_map(kind) else (array.values,)
        ends = np.concatenate([[0], np.cumsum(np.sum([_value_bytes(member) for member in members], axis=0))])
        offsets = array.offsets.to_numpy(zero_copy_only=False)
        return _VALUE_BYTES + ends[offsets[1:]] - ends[offsets[:-1]]
    if kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        lengths = pc.call_function("binary_length", [array]).fill_null(0)
        return _VALUE_BYTES + lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    return np.full(count, _VALUE_BYTES + array.nbytes // max(count, 1), np.int64)
