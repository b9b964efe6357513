"""Reads the rows of a piece, in a worker process, before they are tokenized."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import orjson

from halcyon.data.forms.form import BadValue
from halcyon.data.sources import parquet, row_ends, stdlib
from halcyon.data.sources.access import Access, SourceFile
from halcyon.data.sources.decompress import decompressed
from halcyon.data.sources.expansion import Expands
from halcyon.data.sources.failures import Unreadable, errors_at, may_skip, reason
from halcyon.data.sources.files import read_chunks, read_range
from halcyon.data.sources.lenient_json import loads
from halcyon.data.sources.piece import (
    BadFile,
    Delimited,
    Files,
    JsonLines,
    LeftOut,
    LineRange,
    Lines,
    Piece,
    RowGroups,
    SourceRow,
    Table,
)
from halcyon.data.sources.row_forms import BYTE_ORDER_MARK, elements, parse_delimited
from halcyon.data.sources.text_check import no_text, not_utf8

Read = TypeVar("Read")
_NOT_BLANK = re.compile(rb"\S")


def read_piece(piece: Piece, access: Access) -> list[SourceRow]:
    """The rows of a piece, in order. Blank lines are not rows; empty texts are, and so are those that are left out
    (`LeftOut`).

    Raises:
        BadConfiguration: A file was deleted or changed, or a row is invalid. The message names the file and the row.
        DataUnreachable: A store does not answer, or denies access.
        Expands: It is too large in memory: use `in_parts`.
    """
    with errors_at(piece.where):
        match piece.content:
            case Files(files, named):
                return [SourceRow(file.uri, 0, _read_file(piece, file, file.uri in named, access)) for file in files]
            case BadFile(problem):
                return [SourceRow(piece.file, piece.number, LeftOut("file", problem))]
            case RowGroups() as content:
                return _read_groups(piece, content, access)
            case Table(data):
                return parquet.read_table(piece, data)
            case content:
                return _parse(piece, content, access)


def read_pieces(pieces: Iterable[Piece], access: Access) -> Iterator[list[SourceRow]]:
    """The rows of pieces, in order, without those that are left out; one list for each piece, or for each part of one
    that is too large in memory.

    Errors: `read_piece`.
    """
    for piece in pieces:
        for rows in in_parts(piece, access, lambda part: read_piece(part, access)):
            yield [row for row in rows if not isinstance(row.value, LeftOut)]


def in_parts(piece: Piece, access: Access, read: Callable[[Piece], Read]) -> Iterator[Read]:
    """What `read` makes of a piece: once, or for each part of one that is too large in memory.

    Args:
        piece: The piece.
        access: How stores are reached.
        read: Calls `read_piece`, and may raise what it raises.
    """
    try:
        whole = read(piece)
    except Expands:
        yield from map(read, parquet.finer(piece, access))
    else:
        yield whole


def _read_groups(piece: Piece, content: RowGroups, access: Access) -> list[SourceRow]:
    try:
        return parquet.read_groups(piece, content, access)
    except Unreadable as bad:
        if not piece.skips_files or not may_skip(bad):
            raise
        left_out = LeftOut("row", str(bad))
        return [SourceRow(piece.file, piece.number + row, left_out) for row in range(piece.rows)]


def _read_file(piece: Piece, file: SourceFile, named: bool, access: Access) -> bytes | LeftOut:
    try:
        text = _read_text(file, access)
        if what := no_text(text):
            if not named:
                return LeftOut("binary", f"{file.uri} {what}")
            raise Unreadable(f"{file.uri} {what}")
        if what := not_utf8(text):
            raise Unreadable(f"{file.uri} {what}, or leave the file out (exclude, or onBadFile: skip)")
    except Unreadable as bad:
        if not piece.skips_files or not may_skip(bad):
            raise
        return LeftOut("file", str(bad))
    return text


def _read_text(file: SourceFile, access: Access) -> bytes:
    if file.uri.startswith(stdlib.PREFIX):
        return stdlib.read_module(file)
    parts: list[bytes | memoryview] = []
    size_bytes = 0
    for part in decompressed(file.uri, read_chunks(file, access)):
        parts.append(part)
        size_bytes += len(part)
        if size_bytes > row_ends.LONGEST_ROW_BYTES:
            raise Unreadable(
                f"{file.uri} is one text of more than {row_ends.LONGEST_ROW_BYTES >> 20} MiB, and a document must fit "
                "in memory; cut it into files, for example with split --line-bytes=100M, or write rows of JSON"
            )
    return b"".join(parts)


def _parse(piece: Piece, content: Lines | LineRange, access: Access) -> list[SourceRow]:
    rows = content.rows
    text = (
        content.data
        if isinstance(content, Lines)
        else bytes(read_range(content.file, content.start, content.end, access))
    )
    if isinstance(rows, JsonLines):
        return _parse_lines(piece, text, rows.wanted)
    if isinstance(rows, Delimited):
        return list(parse_delimited(rows, piece.file, piece.number, text, skips=piece.skips_rows))
    return [
        SourceRow(piece.file, number, _row_or_left_out(piece, number, memoryview(element), rows.wanted, "row"))
        for number, element in enumerate(elements(piece.file, text, first=piece.number == 0), piece.number)
    ]


def _parse_lines(piece: Piece, text: bytes, wanted: tuple[str, ...] | None) -> list[SourceRow]:
    view = memoryview(text)  # slices of it are not copies
    rows: list[SourceRow] = []
    start = len(BYTE_ORDER_MARK) if piece.number == 0 and text.startswith(BYTE_ORDER_MARK) else 0
    number = piece.number
    while start < len(text):
        line_end = text.find(b"\n", start)
        line = view[start : line_end if line_end >= 0 else len(text)]
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):  # a blank line, or one that `orjson` does not take
            value = _row_or_left_out(piece, number, line, wanted, "line") if _NOT_BLANK.search(line) else None
        if value is not None:
            rows.append(SourceRow(piece.file, number, value))
        number, start = number + 1, start + len(line) + 1
    return rows


def _row_or_left_out(
    piece: Piece, number: int, text: memoryview, wanted: tuple[str, ...] | None, name: str
) -> dict[str, Any] | LeftOut:
    try:
        return _row(piece, number, text, wanted, name)
    except Unreadable as bad:
        if not piece.skips_rows:
            raise
        return LeftOut("row", str(bad))


def _row(piece: Piece, number: int, text: memoryview, wanted: tuple[str, ...] | None, name: str) -> dict[str, Any]:
    """The fields of a row of JSON. A list of messages is the row ``{"messages": [...]}``, as in files of nanochat.

    Raises:
        Unreadable: It is not JSON, or neither an object nor a list of messages; or a value of a wanted field cannot be
            used.
    """
    row = f"row {number} (counted from 0) of {piece.file}"
    try:
        value = loads(text)
    except orjson.JSONDecodeError as error:
        if bad := not_utf8(bytes(text)):
            raise Unreadable(f"{row} {bad}") from None
        what = reason(error)
        if bytes(text).strip() == b"{":
            what, name = (
                "its object goes on in the next lines",
                "file: write each object on one line, or all in one array",
            )
        raise Unreadable(f"{row} is not JSON: {what}; fix the {name}") from None
    if isinstance(value, list) and all(isinstance(message, dict) for message in value):
        value = {"messages": value}
    if not isinstance(value, dict):
        raise Unreadable(f"{row} is not an object with fields; write {{…}} on each line")
    for field in wanted or ():
        if isinstance(bad := value.get(field), BadValue):
            problem = f"{bad.problem} in the field {field!r}; fix the {name}"
            raise Unreadable(f"{row} {not_utf8(bytes(text)) or problem}")
    return value
