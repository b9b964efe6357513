"""Parquet files: workers read small row groups, and the parent cuts large ones.

A row group is the smallest unit that can be read separately: a few rows of a large one cannot be read without decoding
all rows before them. So workers get the numbers of row groups of up to a few pieces' size. The parent decodes a larger
row group once, as a stream, and sends Arrow's interprocess format to the workers. Only the columns that the format
needs are fetched.

A row group whose texts are repeated so often that they are too large in memory (`halcyon.data.sources.expansion`) is
cut by the parent too, as soon as a worker has found that.

A column of lists of numbers (token ids) becomes one array per row, without a Python object for each number.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from halcyon.data.sources.access import Access, SourceFile
from halcyon.data.sources.expansion import MOST_BYTES, Expands, cut_rows, group_bytes, may_expand, row_bytes
from halcyon.data.sources.failures import Unreadable, errors_at, reason
from halcyon.data.sources.fields import ColumnsOf
from halcyon.data.sources.files import read_range
from halcyon.data.sources.piece import TARGET_BYTES, Piece, RowGroups, SourceRow, Table, Wanted

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

if TYPE_CHECKING:
    import pyarrow as pa

_LARGE_GROUP = 8
"""The parent cuts a row group that is larger than this number of pieces."""
_BUFFER_BYTES = 8 * 2**20
_MOST_BATCH_ROWS = 2**16


def cut(
    where: str, file: SourceFile, first: int, wanted: Wanted, columns_of: ColumnsOf, access: Access, target_bytes: int
) -> Generator[Piece, None, int]:
    """The wanted pieces of a file; returns its number of rows.

    Raises:
        Unreadable: It is not a parquet file, or lacks a column.
    """
    opened = _open(file, access)
    columns = _check_columns(file, opened, columns_of(file.uri, opened.schema_arrow.names))
    number = 0
    for groups, rows, size_bytes in _batches(opened, columns, target_bytes):
        start, end = wanted.within(first + number, rows)
        if start < end and size_bytes <= _LARGE_GROUP * target_bytes:
            yield Piece(
                where,
                file.uri,
                first + number + start,
                end - start,
                number + start,
                RowGroups(file, groups, columns, start),
            )
        elif start < end:
            yield from _cut_large(
                where, file, opened, groups, columns, Wanted(start, end), (first, number), target_bytes, access
            )
        number += rows
        if first + number >= wanted.end:
            break
    return opened.metadata.num_rows


def table_pieces(
    where: str, file: str, tables: Iterator[pa.Table | pa.RecordBatch], wanted: Wanted, before: tuple[int, int]
) -> Iterator[Piece]:
    """Pieces that contain tables.

    Args:
        where: As in `Piece`.
        file: As in `Piece`.
        tables: Consecutive tables.
        wanted: The wanted rows, counted from the first table.
        before: Rows of the source before the file, and rows of the file before the first table.
    """
    import pyarrow as pa

    first, number = before
    passed = 0
    for table in tables:
        start, end = wanted.within(passed, table.num_rows)
        if start < end:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write(table.slice(start, end - start))
            at = number + passed + start
            yield Piece(where, file, first + at, end - start, at, Table(sink.getvalue().to_pybytes()))
        passed += table.num_rows
        if passed >= wanted.end:
            return


def read_groups(piece: Piece, content: RowGroups, access: Access) -> list[SourceRow]:
    """The rows of row groups.

    Raises:
        Unreadable: They are damaged, or contain a text that is not UTF-8.
        Expands: They are too large in memory: use `finer`.
    """
    import pyarrow as pa

    opened = _open(content.file, access)
    is_large = may_expand(opened.metadata, content.groups, _numbers_of(opened, content.columns))
    if is_large:
        opened = _open(content.file, access, dictionaries=True)
    try:
        table = opened.read_row_groups(list(content.groups), columns=list(content.columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(content.file.uri, error) from None
    table = table.slice(content.skip, piece.rows)
    if is_large and row_bytes(table).sum() > MOST_BYTES:
        raise Expands
    return _rows(piece, table)


def finer(piece: Piece, access: Access) -> Iterator[Piece]:
    """The rows of a piece of row groups as several pieces, each of which can be decoded at once.

    Raises:
        BadConfiguration: The file is damaged, or a row is too large.
    """
    content = piece.content
    assert isinstance(content, RowGroups)  # noqa: S101 - no other content expands
    opened = _open(content.file, access)
    wanted = Wanted(content.skip, content.skip + piece.rows)
    before = (piece.first_row - content.skip, piece.number - content.skip)
    with errors_at(piece.where):
        yield from _cut_large(
            piece.where, content.file, opened, content.groups, content.columns, wanted, before, TARGET_BYTES, access
        )


def read_table(piece: Piece, content: Table) -> list[SourceRow]:
    """The rows of a table in a piece."""
    import pyarrow as pa

    return _rows(piece, pa.ipc.open_stream(content.data).read_all())


class _RangeStream(io.RawIOBase):
    """A file of a source as a seekable stream."""

    def __init__(self, file: SourceFile, access: Access) -> None:
        self._file = file
        self._access = access
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size_bytes}[whence]
        )
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = self._file.size_bytes if size is None or size < 0 else min(self._position + size, self._file.size_bytes)
        data = read_range(self._file, self._position, end, self._access) if end > self._position else b""
        self._position = max(self._position, end)
        return bytes(data)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@lru_cache(maxsize=8)
def _open(file: SourceFile, access: Access, *, dictionaries: bool = False) -> ParquetFile:
    """A file. With `dictionaries`, texts that the file has in a dictionary stay there."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        # A buffer of bounded size instead of whole columns (pre_buffer), because a row group may be as large as the
        # file.
        stream = pa.PythonFile(_RangeStream(file, access), mode="r")
        schema = _open(file, access).metadata.schema if dictionaries else ()
        names = [column.path for column in schema if column.physical_type == "BYTE_ARRAY"]
        return ParquetFile(
            stream, read_dictionary=names, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file.uri, error) from None


def _damaged(uri: str, error: Exception) -> Unreadable:
    return Unreadable(
        f"{uri} is truncated, damaged or not a parquet file: {reason(error)}; write it again or leave it out"
    )


def _check_columns(file: SourceFile, opened: ParquetFile, fields: Sequence[str]) -> tuple[str, ...]:
    names = opened.schema_arrow.names
    for field in fields:
        if field not in names:
            raise Unreadable(
                f"{file.uri} has no column {field!r}, only {', '.join(names[:20])}; name it in format, or leave files "
                "of another schema out"
            )
    return tuple(fields)


def _batches(
    opened: ParquetFile, columns: Sequence[str], target_bytes: int
) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Consecutive row groups of about a piece's size: their numbers, rows and uncompressed bytes."""
    metadata, wanted = opened.metadata, _numbers_of(opened, columns)
    groups: list[int] = []
    rows = size_bytes = 0
    for index in range(metadata.num_row_groups):
        more = group_bytes(metadata, index, wanted)
        if groups and size_bytes + more > target_bytes:
            yield tuple(groups), rows, size_bytes
            groups, rows, size_bytes = [], 0, 0
        groups.append(index)
        rows, size_bytes = rows + metadata.row_group(index).num_rows, size_bytes + more
    if groups:
        yield tuple(groups), rows, size_bytes


def _numbers_of(opened: ParquetFile, columns: Sequence[str]) -> list[int]:
    """The numbers of the leaves of some columns."""
    metadata = opened.metadata
    return [
        index for index in range(metadata.num_columns) if metadata.schema.column(index).path.split(".")[0] in columns
    ]


def _cut_large(
    where: str,
    file: SourceFile,
    opened: ParquetFile,
    groups: Sequence[int],
    columns: Sequence[str],
    wanted: Wanted,
    before: tuple[int, int],
    target_bytes: int,
    access: Access,
) -> Iterator[Piece]:
    import pyarrow as pa

    leaves = _numbers_of(opened, columns)
    size_bytes = sum(group_bytes(opened.metadata, group, leaves) for group in groups)
    rows = sum(opened.metadata.row_group(group).num_rows for group in groups)
    is_large = may_expand(opened.metadata, groups, leaves)
    if is_large:
        opened = _open(file, access, dictionaries=True)
    batch_rows = min(max(1, rows * target_bytes // max(size_bytes, 1)), _MOST_BATCH_ROWS)
    batches = opened.iter_batches(batch_rows, row_groups=list(groups), columns=list(columns), use_threads=False)
    try:
        cut = cut_rows(batches, target_bytes, size_bytes, file.uri) if is_large else batches
        yield from table_pieces(where, file.uri, cut, wanted, before)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file.uri, error) from None


def _rows(piece: Piece, table: pa.Table) -> list[SourceRow]:
    columns = [_values(piece, name, table.column(name)) for name in table.column_names]
    names = table.column_names
    return [
        SourceRow(piece.file, number, dict(zip(names, values, strict=True)))
        for number, values in enumerate(zip(*columns, strict=True), piece.number)
    ]


def _values(piece: Piece, name: str, column: pa.ChunkedArray) -> list[Any]:
    """The values of a column as Python objects; lists of numbers as arrays."""
    import pyarrow as pa

    kind = column.type
    if (
        (pa.types.is_list(kind) or pa.types.is_large_list(kind))
        and pa.types.is_primitive(kind.value_type)
        and column.null_count == 0
    ):
        out: list[Any] = []
        for chunk in column.chunks:
            flat = chunk.flatten()
            if flat.null_count:
                return column.to_pylist()
            numbers, lengths = flat.to_numpy(zero_copy_only=False), chunk.value_lengths().to_numpy(zero_copy_only=False)
            ends = lengths.cumsum()
            out.extend(numbers[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True))
        return out
    try:
        if has_structs(kind):
            return [without_nulls(value) for value in column.to_pylist(maps_as_pydicts="strict")]
        return column.to_pylist()
    except UnicodeDecodeError as error:
        for row, value in enumerate(column):
            try:
                value.as_py()
            except UnicodeDecodeError:
                raise Unreadable(
                    f"row {piece.number + row} (counted from 0) of {piece.file} is not UTF-8 in column {name!r}; fix "
                    "the row"
                ) from error
        raise


_SPEAKERS = ("role", "from")
_SAID = ("content", "value")


def has_structs(kind: pa.DataType) -> bool:
    """Whether values of a type are, or contain, structs or maps."""
    import pyarrow as pa

    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return True
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    is_list = is_list or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)
    return is_list and has_structs(kind.value_type)


def without_nulls(value: Any) -> Any:
    """A value without the members of structs that are null."""
    if isinstance(value, list):
        return [without_nulls(member) for member in value]
    if isinstance(value, dict):
        speaks = any(value.get(name) is not None for name in _SPEAKERS)
        return {
            name: without_nulls(member)
            for name, member in value.items()
            if member is not None or (speaks and name in _SAID)
        }
    return value
