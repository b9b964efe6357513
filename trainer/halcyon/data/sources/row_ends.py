"""Cuts a stream of chunks into blocks of whole rows: lines, records of CSV, or elements of a JSON array.

It must be cheap, because one process supplies many workers. A scanner gets the text in chunks of any size and returns
the end of each row. Its state is a few numbers, so the text is not kept.

A block ends at the first row end at or after `target_bytes`. So its bounds depend only on the text, not on the chunks:
pieces do not depend on the location or the compression of a file. A block is large only if its last row is, and a row
has at most `LONGEST_ROW_BYTES`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from halcyon.data.sources.failures import Unreadable

LONGEST_ROW_BYTES = 256 * 2**20
"""A longer row, or file of text, is an error, because it is several times in memory while it is read."""
LONGEST_RECORD_BYTES = 64 * 2**20
"""A longer record of CSV is an error: most likely a quote is not closed, and the rest of the file would be one value.
"""


class Block(NamedTuple):
    """A block of whole rows."""

    size_bytes: int
    rows: int
    """Number of rows, blank lines included; the last line of a file may have no line end."""
    text: bytes | None
    """The text; None: not kept."""


class LineScanner:
    """Scans lines."""

    def __init__(self) -> None:
        self._open = False

    def feed(self, data: bytes) -> np.ndarray:
        """Offsets in this chunk after the last byte of each row that ends in it: int64 [rows], rising.

        Raises:
            Unreadable: The text cannot be cut into rows.
        """
        self._open = not data.endswith(b"\n") if data else self._open
        return _line_ends(data)

    def close(self) -> int:
        """Rows that end at the end of the text: 0 or 1.

        Raises:
            Unreadable: The text ends inside a row.
        """
        return int(self._open)


def _line_ends(data: bytes) -> np.ndarray:
    return np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1


class RecordScanner:
    """Scans records of CSV or TSV as Python's `csv` reads them: a line end inside quotes ends no record.

    Args:
        delimiter: The sign between values.
        file: Address of the file, for messages.
    """

    def __init__(self, delimiter: Literal[",", "\t"], file: str) -> None:
        self._file = file
        self._record = _record_expression(delimiter)
        self._rows = 0
        self._open = b""  # the record that has begun

    def feed(self, data: bytes) -> np.ndarray:
        """See `LineScanner`."""
        if b'"' not in data and b'"' not in self._open:
            ends = _line_ends(data)
            self._open = data[int(ends[-1]) :] if len(ends) else self._open + data
            self._rows += len(ends)
            return ends
        before, text = len(self._open), self._open + data
        found: list[int] = []
        place = 0
        while (match := self._record.match(text, place)) is not None:
            place = match.end()
            found.append(place - before)
        self._open = text[place:]
        self._rows += len(found)
        if len(self._open) > LONGEST_RECORD_BYTES:
            row = f"row {self._rows} (counted from 0, without the header) of {self._file}"
            raise Unreadable(
                f"{row} is longer than {LONGEST_RECORD_BYTES // 2**20} MiB, probably because a quote is not closed; "
                "close it, or write JSON Lines for values of this length"
            )
        return np.array(found, np.int64)

    def close(self) -> int:
        """See `LineScanner`."""
        if not self._open:
            return 0
        if self._record.fullmatch(self._open + b"\n") is None:
            raise Unreadable(
                f"{self._file} ends inside quotes, which begin in its last row; close the quote, or copy the file again"
            )
        return 1


def _record_expression(delimiter: str) -> re.Pattern[bytes]:
    """One record with its line end. Possessive: an open quote fails at once, without another attempt."""
    value = rf'(?:"(?:[^"]++|"")*+"[^{delimiter}\n]*+|[^"{delimiter}\n][^{delimiter}\n]*+|)'
    return re.compile(rf"{value}(?:{delimiter}{value})*+\n".encode())


class ElementScanner:
    """Scans the elements of a JSON array, without parsing them: brackets outside of strings are counted.

    Args:
        file: Address of the file, for messages.
        inside: Whether the text begins after an element, and not with the array.
    """

    def __init__(self, file: str, *, inside: bool = False) -> None:
        self._file = file
        self._depth = 0 if inside else -1  # of brackets: 0 between elements
        self._passed = int(inside)  # texts between elements
        self._gap = b""  # the text since the last element
        self._in_string = self._in_escape = self._closed = False

    def feed(self, data: bytes) -> np.ndarray:
        """See `LineScanner`."""
        if self._closed:
            self._check_end(data)
            return np.empty(0, np.int64)
        marks, steps = self._brackets(np.frombuffer(data, np.uint8))
        depths = self._depth + np.cumsum(steps)
        before, stop = self._depth, len(data)
        if len(closing := np.flatnonzero(depths < 0)):
            marks, steps, depths = (array[: closing[0] + 1] for array in (marks, steps, depths))
            stop, self._closed = int(marks[-1]) + 1, True
        self._depth = int(depths[-1]) if len(depths) else before
        ends = marks[(depths == 0) & (steps < 0)] + 1
        starts = marks[(depths == 1) & (steps > 0)].tolist()
        begins: list[int] = [*([0] if before <= 0 else []), *ends.tolist()]
        stops: list[int] = [*starts, *([stop] if self._depth <= 0 else [])]
        for begin, end in zip(begins, stops, strict=True):
            self._gap += data[begin:end]
            if end < stop or self._closed:
                self._check_gap(closes=end == stop and self._closed)
        self._check_end(data[stop:])
        return ends

    def close(self) -> int:
        """See `LineScanner`."""
        if not self._closed:
            raise Unreadable(f"{self._file} is truncated: its JSON array does not end; copy it again or leave it out")
        return 0

    def _brackets(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets of the brackets outside of strings, and 1 for those that open and -1 for those that close."""
        escaped = np.zeros(len(window) + 1, bool)
        escaped[_escape_offsets(window, inside=self._in_escape) + 1] = True
        escaped[0] |= self._in_escape
        self._in_escape = bool(escaped[-1])
        quotes = np.flatnonzero((window == ord('"')) & ~escaped[:-1])
        upper = window & 0xDF  # "{" becomes "[", and "}" becomes "]"
        marks = np.flatnonzero((upper == ord("[")) | (upper == ord("]")))
        inside = (np.searchsorted(quotes, marks) + self._in_string) % 2 == 1
        self._in_string ^= len(quotes) % 2 == 1
        marks = marks[~inside]
        return marks, np.where(upper[marks] == ord("["), 1, -1)

    def _check_gap(self, *, closes: bool) -> None:
        first = self._passed == 0
        expected = rb"\s*\[\s*" if first else rb"\s*,\s*"
        if closes:
            expected = rb"\s*\[\s*\]" if first else rb"\s*\]"
        if re.fullmatch(expected, self._gap) is None:
            raise Unreadable(
                f"row {self._passed} (counted from 0) of {self._file} is not an object in a JSON array; write [{{…}}, "
                "{…}], or one object on each line"
            )
        self._gap = b""
        self._passed += 1

    def _check_end(self, data: bytes) -> None:
        if data.strip():
            raise Unreadable(
                f"{self._file} goes on after the end of its JSON array; write one array, or one object on each line"
            )


def _escape_offsets(window: np.ndarray, *, inside: bool) -> np.ndarray:
    """Offsets at which escapes begin: every second backslash of a run.

    Args:
        window: Bytes of a JSON string: uint8.
        inside: Whether the byte before the first one begins an escape.
    """
    places = np.flatnonzero(window == ord("\\"))
    order = np.arange(len(places))
    first = np.maximum.accumulate(np.where(np.diff(places, prepend=-2) > 1, order, 0))
    second = (order - first) % 2 == 1
    if inside and len(places) and places[0] == 0:
        second[first == 0] ^= True
    return places[~second]


Scanner = LineScanner | RecordScanner | ElementScanner
"""Finds the ends of rows in a text that arrives in chunks."""


def cut_rows(
    chunks: Iterable[bytes | memoryview],
    scanner: Scanner,
    target_bytes: int,
    *,
    keep: bool = True,
    file: str = "",
) -> Iterator[Block]:
    """Blocks of whole rows, in order. A row longer than `target_bytes` makes a larger block. Text after the last row
    belongs to no block.

    Args:
        chunks: The text.
        scanner: Finds the ends of rows.
        target_bytes: A block ends with the first row that ends at or after this size.
        keep: Whether to keep the blocks' text; False: only their bounds.
        file: Address of the file, for messages.

    Raises:
        Unreadable: A row is longer than `LONGEST_ROW_BYTES`, or the text cannot be cut.
    """
    held, before = _Held(keep), 0
    for chunk in chunks:
        data = bytes(chunk)
        ends = scanner.feed(data)
        start = taken = 0
        while (last := int(np.searchsorted(ends, start + max(1, target_bytes - held.size_bytes)))) < len(ends):
            end = int(ends[last])
            held.add(memoryview(data)[start:end], last + 1 - taken)
            yield held.block()
            held, before, start, taken = _Held(keep), before + held.rows, end, last + 1
        held.add(memoryview(data)[start:], len(ends) - taken)
        if held.size_bytes > LONGEST_ROW_BYTES + target_bytes:
            raise Unreadable(
                f"row {before + held.rows} (counted from 0) of {file} is longer than {LONGEST_ROW_BYTES >> 20} MiB; "
                "split it"
            )
    held.rows += scanner.close()
    if held.rows:
        yield held.block()


class _Held:
    """The part of a block that has arrived."""

    def __init__(self, keep: bool) -> None:
        self.size_bytes = self.rows = 0
        self._keep = keep
        self._parts: list[memoryview] = []

    def add(self, text: memoryview, rows: int) -> None:
        self.size_bytes += len(text)
        self.rows += rows
        if self._keep:
            self._parts.append(text)

    def block(self) -> Block:
        return Block(self.size_bytes, self.rows, b"".join(self._parts) if self._keep else None)


def offset_of_row(chunks: Iterable[bytes], scanner: Scanner, row: int) -> int:
    """Offset of the begin of a row, in bytes from the first chunk; rows are counted from 0, and each ends in the
    chunks.
    """
    if row == 0:
        return 0
    offset = 0
    for chunk in chunks:
        ends = scanner.feed(chunk)
        if len(ends) >= row:
            return offset + int(ends[row - 1])
        offset, row = offset + len(chunk), row - len(ends)
    return offset
