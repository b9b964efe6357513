"""Texts that are too long to be held whole.

A document of 400 million characters takes up to 1.6 GB as a string of Python's and as much again while it is made. So text beyond
`LONG_BYTES` stays where it is, in a file, and is decoded part by part as it is tokenized. A line of JSON that long lies in a mapped file:
its long strings are taken out, the rest is parsed as any line, and the strings are decoded in slices that split no escape, no pair of
surrogates and no character.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import orjson

from halcyon.data.sources.failures import Unreadable, blamed_on

LONG_BYTES = 8 * 2**20
"""Longer rows are read part by part."""
_SLICE_BYTES = 2**20
_WINDOW_BYTES = 2**20
_QUOTE, _BACKSLASH = 0x22, 0x5C
_AFTER_NAME = re.compile(rb"\s*:")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]")


class LongText:
    """A text of more than `LONG_BYTES`, decoded part by part, as often as is asked for.

    Args:
        read: Begins to read it: parts that are strings, or parts that are bytes of UTF-8, cut anywhere.
    """

    def __init__(self, read: Callable[[], Iterator[str | bytes]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[str | bytes]:
        """The text in parts.

        Raises:
            BadConfiguration: It cannot be read, or is no text.
        """
        return self._read()

    def strings(self) -> Iterator[str]:
        """The text in parts that are strings; what is not UTF-8 becomes U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for part in self:
            yield part if isinstance(part, str) else decoder.decode(part)
        yield decoder.decode(b"", final=True)

    def whole(self) -> str | bytes:
        """All of it."""
        parts = list(self)
        raw = [part for part in parts if isinstance(part, bytes)]
        return b"".join(raw) if raw else "".join(part for part in parts if isinstance(part, str))


def parse_long_line(line: memoryview, row: str, where: str) -> Any:
    """A line of JSON whose long strings are left where they are.

    Args:
        line: The line.
        row: Which row it is, and
        where: the field of the run document that named it: as a sentence about it begins.

    Returns:
        As `orjson.loads`, but long strings that are members of the outermost object are `LongText`.

    Raises:
        orjson.JSONDecodeError: It is not JSON. What is wrong inside a long string is found when that is read.
    """
    raw: list[memoryview] = []
    between: list[memoryview] = []
    end = 0
    for opening, closing in _long_strings(line):
        if not _AFTER_NAME.match(line, closing + 1):
            raw.append(line[opening + 1 : closing])
            between.append(line[end:opening])
            end = closing + 1
    between.append(line[end:])
    # In their place stand whole numbers that the rest of the line does not spell; unlike a string each has one spelling only.
    first, rest = 10**15, b" ".join(between)
    while any(b"%d" % number in rest for number in range(first, first + len(raw))):
        first += len(raw)
    numbers = range(first, first + len(raw))
    value = orjson.loads(
        b"".join(part for pair in zip(between, [*(b"%d" % number for number in numbers), b""], strict=True) for part in pair)
    )
    taken = {number: LongText(partial(_decoded, string, row, where)) for number, string in zip(numbers, raw, strict=True)}
    if not isinstance(value, dict):
        return _put_back(value, taken)
    return {name: _found(member, taken) or _put_back(member, taken) for name, member in value.items()}


def _found(value: Any, taken: Mapping[int, LongText]) -> LongText | None:
    return taken.get(value) if isinstance(value, int) else None


def _put_back(value: Any, taken: Mapping[int, LongText]) -> Any:
    """A value with its strings whole again: only members of the row are read part by part."""
    if isinstance(value, list):
        return [_put_back(member, taken) for member in value]
    if isinstance(value, dict):
        return {name: _put_back(member, taken) for name, member in value.items()}
    long = _found(value, taken)
    return value if long is None else long.whole()


def _decoded(raw: memoryview, row: str, where: str) -> Iterator[str]:
    with blamed_on(where):
        try:
            for piece in json_slices(raw):
                yield orjson.loads(b'"%b"' % piece)
        except orjson.JSONDecodeError as error:
            raise Unreadable(f"{row} is not JSON: {error.msg}; fix the line") from None


def _long_strings(line: memoryview) -> list[list[int]]:
    """Where the quotes of each long string of a line of JSON are: the opening and the closing one."""
    found: list[np.ndarray] = []
    inside = False  # of an escape, at the begin of a window
    for start in range(0, len(line), _WINDOW_BYTES):
        window = np.frombuffer(line[start : start + _WINDOW_BYTES], np.uint8)
        escaped = np.zeros(len(window) + 1, bool)
        escaped[_escapes(window, inside=inside) + 1] = True
        escaped[0] |= inside
        quotes = np.flatnonzero(window == _QUOTE)
        found.append(start + quotes[~escaped[quotes]])
        inside = bool(escaped[-1])
    quotes = np.concatenate(found)
    pairs = quotes[: len(quotes) // 2 * 2].reshape(-1, 2)
    return pairs[pairs[:, 1] - pairs[:, 0] >= LONG_BYTES].tolist()


def _escapes(window: np.ndarray, *, inside: bool = False) -> np.ndarray:
    """Where escapes begin: every second backslash of a run.

    Args:
        window: Bytes of a JSON string: uint8.
        inside: Whether the byte before the first is the begin of an escape.
    """
    places = np.flatnonzero(window == _BACKSLASH)
    order = np.arange(len(places))
    first = np.maximum.accumulate(np.where(np.diff(places, prepend=-2) > 1, order, 0))
    second = (order - first) % 2 == 1
    if inside and len(places) and places[0] == 0:
        second[first == 0] ^= True
    return places[~second]


def json_slices(raw: memoryview, slice_bytes: int = _WINDOW_BYTES) -> Iterator[bytes]:
    """The inside of a JSON string in slices that are each the inside of a JSON string.

    Args:
        raw: What lies between the quotes.
        slice_bytes: The largest slice, at least 16.
    """
    start = 0
    while len(raw) - start > slice_bytes:
        window = bytes(raw[start : start + slice_bytes])
        end = slice_bytes
        for place in _escapes(np.frombuffer(window, np.uint8))[-2:][::-1].tolist():
            over = place + (6 if window[place + 1 : place + 2] == b"u" else 2)
            if over > end or (over == end and _HIGH_SURROGATE.match(window, place)):
                end = place
        end = end or slice_bytes  # where nothing is whole the parser shall complain
        while end > slice_bytes - 4 and raw[start + end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        yield window[:end]
        start += end
    yield bytes(raw[start:])
