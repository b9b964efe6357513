"""Parquet files: workers read small row groups, and the parent cuts large ones.

A row group is the smallest unit that can be read separately: a few rows of a large one cannot be read without decoding
all rows before them. So workers get the numbers of row groups of up to a few pieces' size. The parent decodes a larger
row group once, as a stream, and sends Arrow's interprocess format to the workers. Only the columns that the format
needs are fetched.

A row group whose texts are repeated so often that they are too large in memory (`halcyon.data.sources.expansion`) is
cut by the parent too, as soon as a worker has found that.

A column of lists of numbers (token ids) becomes one array per row, without a Python object for each number.
"""

import io
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from halcyon.data.sources.access import Access, SourceFile
from halcyon.data.sources.expansion import MOST_BYTES, Expands, cut_rows, group_bytes, may_expand, row_bytes
from halcyon.data.sources.failures import Unreadable, errors_at, reason
from halcyon.data.sources.fields import existing_columns
from halcyon.data.sources.files import read_range
from halcyon.data.sources.piece import TARGET_BYTES, FilePart, Piece, RowGroups, SourceRow, Table, Wanted
from halcyon.data.sources.text_check import not_utf8
from halcyon_api.spec.sources import FormatSpec

_LARGE_GROUP = 8
"""The parent cuts a row group that is larger than this number of pieces."""
_BUFFER_BYTES = 8 * 2**20
_MOST_BATCH_ROWS = 2**16

_SPEAKERS = ("role", "from")
_SAID = ("content", "value")


def cut(
    file: SourceFile, wanted: Wanted, *, form: FormatSpec, access: Access, target_bytes: int
) -> Generator[FilePart, None, int]:
    """The wanted parts of a file; returns its number of rows.

    Raises:
        Unreadable: It is not a parquet file, or lacks a column.
    """
    try:
        opened = _open(file, access)
        columns = existing_columns(form, file.uri, opened.schema_arrow.names)
    except Unreadable as bad:
        bad.rows = 0
        raise
    number = 0
    for groups, rows, size_bytes in _batches(opened, columns, target_bytes):
        start, end = wanted.within(number, rows)
        if start < end:
            content = RowGroups(file, groups, columns, start)
            if size_bytes <= _LARGE_GROUP * target_bytes:
                yield FilePart(number + start, end - start, content)
            else:
                yield from _cut_large(content, Wanted(start, end), number, access, target_bytes)
        number += rows
        if number >= wanted.end:
            break
    return opened.metadata.num_rows


def table_parts(tables: Iterable[pa.Table | pa.RecordBatch], wanted: Wanted, before: int) -> Iterator[FilePart]:
    """Parts of a file that contain tables.

    Args:
        tables: Consecutive tables.
        wanted: The wanted rows, counted from the first table.
        before: Rows of the file before the first table.
    """
    passed = 0
    for table in tables:
        start, end = wanted.within(passed, table.num_rows)
        if start < end:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write(table.slice(start, end - start))
            yield FilePart(before + passed + start, end - start, Table(sink.getvalue().to_pybytes()))
        passed += table.num_rows
        if passed >= wanted.end:
            return


def read_groups(piece: Piece, content: RowGroups, access: Access) -> list[SourceRow]:
    """The rows of row groups.

    Raises:
        Unreadable: They are damaged, or contain a text that is not UTF-8.
        Expands: They are too large in memory: use `finer`.
    """
    opened = _open(content.file, access)
    is_large = may_expand(opened.metadata, content.groups, _leaves(opened, content.columns))
    if is_large:
        opened = _open(content.file, access, dictionaries=True)
    with _errors_of(content.file):
        table = opened.read_row_groups(list(content.groups), columns=list(content.columns), use_threads=False)
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
    wanted = Wanted(content.skip, content.skip + piece.rows)
    with errors_at(piece.where):
        for part in _cut_large(content, wanted, piece.number - content.skip, access, TARGET_BYTES):
            yield replace(piece, first_row=piece.first_row + part.number - piece.number, **part._asdict())


def read_table(piece: Piece, data: bytes) -> list[SourceRow]:
    """The rows of a table in a piece."""
    return _rows(piece, pa.ipc.open_stream(data).read_all())


class _RangeStream(io.RawIOBase):
    """A file of a source as a seekable stream."""

    def __init__(self, file: SourceFile, access: Access) -> None:
        self._file = file
        self._access = access
        self._position = 0

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size_bytes}[whence]
        )
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = self._file.size_bytes if size is None or size < 0 else min(self._position + size, self._file.size_bytes)
        data = read_range(self._file, self._position, end, self._access) if end > self._position else b""
        self._position = max(self._position, end)
        return bytes(data)


@lru_cache(maxsize=8)
def _open(file: SourceFile, access: Access, *, dictionaries: bool = False) -> ParquetFile:
    """A file. With `dictionaries`, texts that the file has in a dictionary stay there."""
    # A buffer of bounded size instead of whole columns (pre_buffer), because a row group may be as large as the file.
    with _errors_of(file):
        schema = _open(file, access).metadata.schema if dictionaries else ()
        return ParquetFile(
            pa.PythonFile(_RangeStream(file, access), mode="r"),
            read_dictionary=[column.path for column in schema if column.physical_type == "BYTE_ARRAY"],
            pre_buffer=False,
            buffer_size=_BUFFER_BYTES,
            page_checksum_verification=True,
        )


@contextmanager
def _errors_of(file: SourceFile) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise Unreadable(
            f"{file.uri} is truncated, damaged or not a parquet file: {reason(error)}; write it again or leave it out"
        ) from None


def _batches(
    opened: ParquetFile, columns: Sequence[str], target_bytes: int
) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Consecutive row groups of about a piece's size: their numbers, rows and uncompressed bytes."""
    metadata, leaves = opened.metadata, _leaves(opened, columns)
    groups: list[int] = []
    rows = size_bytes = 0
    for index in range(metadata.num_row_groups):
        more = group_bytes(metadata, index, leaves)
        if groups and size_bytes + more > target_bytes:
            yield tuple(groups), rows, size_bytes
            groups, rows, size_bytes = [], 0, 0
        groups.append(index)
        rows, size_bytes = rows + metadata.row_group(index).num_rows, size_bytes + more
    if groups:
        yield tuple(groups), rows, size_bytes


def _leaves(opened: ParquetFile, columns: Sequence[str]) -> list[int]:
    """The numbers of the leaves of some columns."""
    metadata = opened.metadata
    return [
        index for index in range(metadata.num_columns) if metadata.schema.column(index).path.split(".")[0] in columns
    ]


def _cut_large(
    content: RowGroups, wanted: Wanted, before: int, access: Access, target_bytes: int
) -> Iterator[FilePart]:
    """Parts of row groups, with their tables. The wanted rows are counted from the first group, which has ``before``
    rows of the file before it.
    """
    opened = _open(content.file, access)
    leaves = _leaves(opened, content.columns)
    size_bytes = sum(group_bytes(opened.metadata, group, leaves) for group in content.groups)
    rows = sum(opened.metadata.row_group(group).num_rows for group in content.groups)
    is_large = may_expand(opened.metadata, content.groups, leaves)
    if is_large:
        opened = _open(content.file, access, dictionaries=True)
    tables: Iterator[Any] = opened.iter_batches(
        min(max(1, rows * target_bytes // max(size_bytes, 1)), _MOST_BATCH_ROWS),
        row_groups=list(content.groups),
        columns=list(content.columns),
        use_threads=False,
    )
    if is_large:
        tables = cut_rows(tables, target_bytes, size_bytes, content.file.uri)
    with _errors_of(content.file):
        yield from table_parts(tables, wanted, before)


def _rows(piece: Piece, table: pa.Table) -> list[SourceRow]:
    columns = [_values(piece, name, table.column(name)) for name in table.column_names]
    names = table.column_names
    return [
        SourceRow(piece.file, number, dict(zip(names, values, strict=True)))
        for number, values in enumerate(zip(*columns, strict=True), piece.number)
    ]


def _values(piece: Piece, name: str, column: pa.ChunkedArray) -> list[Any]:
    """The values of a column as Python objects; lists of numbers as arrays."""
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
        if _has_structs(kind):
            return [_without_nulls(value) for value in column.to_pylist(maps_as_pydicts="strict")]
        return column.to_pylist()
    except UnicodeDecodeError as error:
        for row, value in enumerate(column):
            try:
                value.as_py()
            except UnicodeDecodeError as bad:
                what, fix = not_utf8(bad.object) or ("is not UTF-8", "fix the row")
                raise Unreadable(
                    f"row {piece.number + row} (counted from 0) of {piece.file} {what} in column {name!r}; {fix}"
                ) from error
        raise


def _has_structs(kind: pa.DataType) -> bool:
    """Whether values of a type are, or contain, structs or maps."""
    members = (kind.field(place).type for place in range(kind.num_fields))
    return pa.types.is_struct(kind) or pa.types.is_map(kind) or any(map(_has_structs, members))


def _without_nulls(value: Any) -> Any:
    """A value without the members of structs that are null: as the same row in JSON has it.

    A struct column has the keys of all its rows: a row without a key has null there. So the arguments of one tool would
    show the names of the arguments of all other tools. Null in a struct is therefore read as "the key is absent". The
    table does not tell whether a row had the key with null; programs that write such rows leave the key out, with one
    exception: the content of a message is null where the message only calls tools, and templates test it
    (``message.content is none``). So `content` of a message stays. Elements of a list keep their places, so null among
    them stays too. A text that holds JSON is not looked into: to keep a null in the arguments of a call, write them as
    JSON.
    """
    if isinstance(value, list):
        return [_without_nulls(member) for member in value]
    if isinstance(value, dict):
        speaks = any(value.get(name) is not None for name in _SPEAKERS)
        return {
            name: _without_nulls(member)
            for name, member in value.items()
            if member is not None or (speaks and name in _SAID)
        }
    return value
