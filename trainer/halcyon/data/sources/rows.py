"""Reads the rows of a piece, in a worker process, before they are tokenized."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator

import orjson

from halcyon.data.sources import long_text, parquet, stdlib
from halcyon.data.sources.access import Access
from halcyon.data.sources.address import SourceFile
from halcyon.data.sources.decompress import decompressed
from halcyon.data.sources.failures import Unreadable, errors_at, reason
from halcyon.data.sources.files import read_between, read_chunks, read_range
from halcyon.data.sources.long_text import LongText, parse_long_line
from halcyon.data.sources.piece import Files, LineRange, Lines, Piece, RowGroups, SourceRow, SpilledLines
from halcyon.data.sources.spill_file import SpillFile

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NOT_BLANK = re.compile(rb"\S")


def read_piece(piece: Piece, access: Access) -> list[SourceRow]:
    """The rows of a piece, in order. Blank lines are not rows; empty texts are.

    Raises:
        BadConfiguration: A file was deleted or changed, or a row is invalid. The message names the file and the row.
        DataUnreachable: A store does not answer, or denies access.
    """
    with errors_at(piece.where):
        content = piece.content
        if isinstance(content, Lines):
            return _parse_lines(piece, content.data, 0, len(content.data))
        if isinstance(content, LineRange):
            return _parse_range(piece, content, access)
        if isinstance(content, SpilledLines):
            return _parse_lines(piece, content.aside.take(), content.start, content.end)
        if isinstance(content, Files):
            return [SourceRow(file.uri, 0, _read_text(piece.where, file, access)) for file in content.files]
        if isinstance(content, RowGroups):
            return parquet.read_groups(piece, content, access)
        return parquet.read_table(piece, content)


def _read_text(where: str, file: SourceFile, access: Access) -> bytes | LongText:
    if file.uri.startswith(stdlib.PREFIX):
        return stdlib.read_module(file)

    def again() -> Iterator[bytes | memoryview]:
        with errors_at(where):
            yield from decompressed(file.uri, read_chunks(file, access))

    parts: list[bytes | memoryview] = []
    size_bytes = 0
    for part in decompressed(file.uri, read_chunks(file, access)):
        parts.append(part)
        size_bytes += len(part)
        if size_bytes > long_text.LONG_BYTES:
            return LongText(lambda: map(bytes, again()))
    return b"".join(parts)


def _parse_range(piece: Piece, content: LineRange, access: Access) -> list[SourceRow]:
    size_bytes = content.end - content.start
    if size_bytes <= long_text.LONG_BYTES:
        return _parse_lines(piece, bytes(read_range(content.file, content.start, content.end, access)), 0, size_bytes)
    # Copied, not mapped in place, because a file that is truncated while it is mapped would kill this process.
    aside = SpillFile.make()
    aside.append(read_between(content.file, content.start, content.end, access))
    return _parse_lines(piece, aside.take(), 0, size_bytes)


def _parse_lines(piece: Piece, text: bytes | mmap.mmap, start: int, end: int) -> list[SourceRow]:
    """The rows in the bytes [start, end)."""
    view = memoryview(text)  # slices of it are not copies
    rows: list[SourceRow] = []
    if piece.number == 0 and text[start : start + len(_BYTE_ORDER_MARK)] == _BYTE_ORDER_MARK:
        start += len(_BYTE_ORDER_MARK)
    number = piece.number
    while start < end:
        line_end = text.find(b"\n", start, end)
        line = view[start : line_end if line_end >= 0 else end]
        long = len(line) > long_text.LONG_BYTES
        try:
            value = parse_long_line(line, _named(piece, number), piece.where) if long else orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if _NOT_BLANK.search(line):
                what = reason(error) if long else _at(error, bytes(line))
                raise Unreadable(f"{_named(piece, number)} is not JSON: {what}; fix the line") from None
        else:
            if not isinstance(value, dict):
                raise Unreadable(f"{_named(piece, number)} is not an object with fields; write {{…}} on each line")
            rows.append(SourceRow(piece.file, number, value))
        number, start = number + 1, start + len(line) + 1
    return rows


def _named(piece: Piece, number: int) -> str:
    return f"row {number} (counted from 0) of {piece.file}"


def _at(error: orjson.JSONDecodeError, line: bytes) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return f"byte {undecodable.start} is not UTF-8"
    return reason(error)
