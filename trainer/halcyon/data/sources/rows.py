"""From a piece to its rows: what a worker process does before it tokenizes."""

from __future__ import annotations

import orjson

from halcyon.data.sources import parquet, stdlib
from halcyon.data.sources.access import Access
from halcyon.data.sources.address import SourceFile
from halcyon.data.sources.decompress import decompressed
from halcyon.data.sources.failures import Unreadable, blamed_on, reason
from halcyon.data.sources.files import read_chunks, read_range
from halcyon.data.sources.piece import Files, LineRange, Lines, Piece, Row, RowGroups

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_piece(piece: Piece, access: Access) -> list[Row]:
    """The rows of a piece, in order. Blank lines are no rows; everything else is, empty texts too.

    Raises:
        BadConfiguration: A file is gone or changed, or a row is not what it should be. The sentence names file and row.
    """
    with blamed_on(piece.where):
        content = piece.content
        if isinstance(content, Lines):
            return _parse_lines(piece, content.data)
        if isinstance(content, LineRange):
            return _parse_lines(piece, bytes(read_range(content.file, content.start, content.end, access)))
        if isinstance(content, Files):
            return [Row(file.uri, 0, _read_text(file, access)) for file in content.files]
        if isinstance(content, RowGroups):
            return parquet.read_groups(piece, content, access)
        return parquet.read_table(piece, content)


def _read_text(file: SourceFile, access: Access) -> bytes:
    if file.uri.startswith(stdlib.PREFIX):
        return stdlib.read_module(file)
    return b"".join(decompressed(file.uri, read_chunks(file, access)))


def _parse_lines(piece: Piece, data: bytes) -> list[Row]:
    view = memoryview(data)  # a slice of it is no copy
    rows: list[Row] = []
    start = len(_BYTE_ORDER_MARK) if piece.number == 0 and data.startswith(_BYTE_ORDER_MARK) else 0
    number = piece.number
    while start < len(data):
        end = data.find(b"\n", start)
        line = view[start : end if end >= 0 else len(data)]
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if bytes(line).strip():
                raise Unreadable(
                    f"row {number} (counted from 0) of {piece.file} is not JSON: {_at(error, bytes(line))}; mend the line"
                ) from None
        else:
            if not isinstance(value, dict):
                raise Unreadable(f"row {number} (counted from 0) of {piece.file} is no object of fields; write {{…}} in each line")
            rows.append(Row(piece.file, number, value))
        number, start = number + 1, start + len(line) + 1
    return rows


def _at(error: orjson.JSONDecodeError, line: bytes) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as undecodable:
        return f"byte {undecodable.start} is not UTF-8"
    return reason(error)
