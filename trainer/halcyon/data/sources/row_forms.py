"""How rows lie in a text file: lines of JSON, one JSON array, or records of CSV or TSV.

The beginning of a file decides.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Literal, NamedTuple

from halcyon.data.forms.form import BadValue
from halcyon.data.sources.failures import Unreadable, reason
from halcyon.data.sources.fields import columns_of
from halcyon.data.sources.piece import Delimited, JsonArray, JsonLines, LeftOut, Rows, SourceRow
from halcyon.data.sources.row_ends import ElementScanner, LineScanner, RecordScanner, Scanner
from halcyon.data.sources.text_check import has_mark, no_text, not_utf8
from halcyon_api.counting import counted
from halcyon_api.spec.sources import FormatSpec

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HEAD_BYTES = 2**20
"""Bytes in which the first row of a JSON array is looked for."""
_SPEAKERS = ("role", "from")
"""A field of each message of a conversation: a line that is a list of messages is a row, and not the beginning of a
JSON array.
"""
_BEFORE_ELEMENT = re.compile(rb"\s*[\[,]\s*")
_NAMES = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}


class Begun(NamedTuple):
    """A text whose beginning has been read."""

    rows: Rows
    skipped: int
    """Bytes before the first row."""
    chunks: Iterator[bytes]
    """The text after them."""


def begin_json(wanted: tuple[str, ...] | None, file: str, chunks: Iterable[bytes | memoryview]) -> Begun:
    """Find out whether a text is lines of JSON or one JSON array.

    Args:
        wanted: See `JsonLines`.
        file: Address of the file, for messages.
        chunks: The text.
    """
    texts = (bytes(chunk) for chunk in chunks)
    head = b""
    while len(head) < _HEAD_BYTES and (more := next(texts, b"")):
        head += more
        if (start := head.removeprefix(BYTE_ORDER_MARK).lstrip()) and not start.startswith(b"["):
            break
    _check_text(file, head)
    skipped = len(BYTE_ORDER_MARK) if head.startswith(BYTE_ORDER_MARK) else 0
    if _is_array(head[skipped:]):
        return Begun(JsonArray(wanted), skipped, chain([head[skipped:]], texts))
    return Begun(JsonLines(wanted), 0, chain([head], texts))


def _check_text(file: str, head: bytes) -> None:
    """Raise `Unreadable` if the beginning of a file is no text, or has the mark of another encoding."""
    if what := no_text(head) or (has_mark(head) and not_utf8(head)):
        raise Unreadable(f"{file} {what}")


def _is_array(head: bytes) -> bool:
    """Whether a text is one array of rows: its first element is a list, or an object that is no message."""
    opening = re.match(rb"\s*\[\s*([\[{])", head)
    if opening is None or opening[1] == b"[":
        return opening is not None
    text = head[opening.start(1) :].decode(errors="replace")
    try:
        first, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return b"\n" in head[: opening.start(1)] or not re.match(r'\{\s*"(role|from)"', text)
    return not any(name in first for name in _SPEAKERS)


def begin_delimited(
    delimiter: Literal[",", "\t"],
    form: FormatSpec,
    file: str,
    chunks: Iterable[bytes | memoryview],
) -> Begun:
    """Read the header of a CSV or TSV file.

    Args:
        delimiter: The sign between values.
        form: The format.
        file: Address of the file, for messages.
        chunks: The text.

    Raises:
        Unreadable: The file is not UTF-8, or lacks a column.
    """
    texts = (bytes(chunk) for chunk in chunks)
    head, scanner = b"", RecordScanner(delimiter, file)
    end = 0
    for more in texts:
        if not head:
            _check_text(file, more)
        head += more
        if len(ends := scanner.feed(more)):
            end = len(head) - len(more) + int(ends[0])
            break
    else:
        scanner.close()
        end = len(head)
    columns = _header(file, delimiter, head[:end])
    wanted = columns_of(form, file, columns) if columns else ()
    if columns:
        _check_columns(file, delimiter, columns, wanted)
    return Begun(Delimited(delimiter, columns, wanted), end, chain([head[end:]], texts))


def _header(file: str, delimiter: str, line: bytes) -> tuple[str, ...]:
    if wrong := not_utf8(line):
        raise Unreadable(f"the header of {file} {wrong}")
    text = line.removeprefix(BYTE_ORDER_MARK).decode()
    names = next(csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter), [])
    return tuple(name.strip() for name in names)


def _check_columns(file: str, delimiter: str, columns: Sequence[str], fields: Sequence[str]) -> None:
    for field in fields:
        if columns.count(field) > 1:
            raise Unreadable(f"{file} has {columns.count(field)} columns {field!r}; give each column a name of its own")
        if field not in columns:
            other = next((name for sign, name in _NAMES.items() if sign != delimiter and sign in columns[0]), None)
            hint = (
                f"write {_NAMES[delimiter]} between its values, which seem to be {other}"
                if len(columns) == 1 and other
                else (
                    "the first line must be the header; name the column in format, or leave files of another header out"
                )
            )
            raise Unreadable(f"{file} has no column {field!r}, only {', '.join(columns[:20])}; {hint}")


def scanner_of(rows: Rows, file: str, *, inside: bool = False) -> Scanner:
    """Finds the ends of rows of a text, which begins after another row if ``inside``."""
    match rows:
        case JsonLines():
            return LineScanner()
        case JsonArray():
            return ElementScanner(file, inside=inside)
        case Delimited():
            return RecordScanner(rows.delimiter, file)


def elements(file: str, text: bytes, *, first: bool) -> Iterator[bytes]:
    """The elements of a part of a JSON array, each as JSON. ``first``: whether the part begins the array."""
    start = 0
    for end in ElementScanner(file, inside=not first).feed(text).tolist():
        before = _BEFORE_ELEMENT.match(text, start)
        yield text[start if before is None else before.end() : end]
        start = end


def parse_delimited(rows: Delimited, file: str, number: int, text: bytes, *, skips: bool) -> Iterator[SourceRow]:
    """The rows in whole records of a CSV or TSV file. Blank lines are not rows, but count.

    Args:
        rows: Delimiter and columns.
        file: Address of the file.
        number: Number of the first record, without the header.
        text: The records.
        skips: Whether a bad record is left out.

    Raises:
        Unreadable: A record does not have a value for each column.
    """
    csv.field_size_limit(sys.maxsize)  # the default limit of 128 KiB is less than a book
    # Only line feeds end lines, as for the scanner that cut the text.
    reader = csv.reader(io.StringIO(text.decode(errors="surrogateescape"), newline="\n"), delimiter=rows.delimiter)
    places = [(name, rows.columns.index(name)) for name in rows.wanted]
    while True:
        problem = ""
        try:
            values = next(reader, None)
        except csv.Error as error:
            values = []
            problem = f"is not readable: {reason(error)}; save the file with line feeds (\\n) between rows"
        if values is None:
            return
        if values and len(values) != len(rows.columns):
            problem = (
                f"has {counted(len(values), 'value')} for {counted(len(rows.columns), 'column')}; put quotes "
                f"around values that contain {_NAMES[rows.delimiter]} or line ends"
            )
        if problem:
            problem = f"row {number} (counted from 0, without the header) of {file} {problem}"
            if not skips:
                raise Unreadable(problem)
            yield SourceRow(file, number, LeftOut("row", problem))
        elif values:
            yield SourceRow(file, number, {name: _cell(values[place]) for name, place in places})
        number += 1


def _cell(value: str) -> str | BadValue:
    if not value.isascii() and (wrong := not_utf8(value.encode(errors="surrogateescape"))) is not None:
        return BadValue(*wrong)
    return value
