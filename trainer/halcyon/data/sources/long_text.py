"""Texts that are too long to be in memory as a whole.

A document of 400 million characters takes up to 1.6 GB as a Python string, and twice that while it is made. So text
longer than `LONG_BYTES` stays in its file and is decoded part by part while it is tokenized. A JSON line of this length
is in a mapped file: its long strings are taken out, the rest is parsed like any line, and the strings are decoded in
slices that split no escape, no surrogate pair and no character.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import orjson

from halcyon.data.sources.failures import Unreadable, errors_at
from halcyon.data.sources.lenient_json import loads

LONG_BYTES = 8 * 2**20
"""Texts and lines above this size are read part by part."""
_SLICE_BYTES = 2**20
_WINDOW_BYTES = 2**20
_QUOTE, _BACKSLASH = 0x22, 0x5C
_AFTER_NAME = re.compile(rb"\s*:")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]")


class LongText:
    """A text of more than `LONG_BYTES`, decoded part by part. It can be read several times.

    Args:
        read: Starts a new read: yields parts that are strings, or parts that are bytes of UTF-8, cut anywhere.
    """

    def __init__(self, read: Callable[[], Iterator[str | bytes]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[str | bytes]:
        """The text in parts.

        Raises:
            BadConfiguration: It cannot be read, or is not text.
        """
        return self._read()

    def strings(self) -> Iterator[str]:
        """The text in parts that are strings; bytes that are not UTF-8 become U+FFFD."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for part in self:
            yield part if isinstance(part, str) else decoder.decode(part)
        yield decoder.decode(b"", final=True)

    def whole(self) -> str | bytes:
        """The whole text in memory."""
        parts = list(self)
        raw = [part for part in parts if isinstance(part, bytes)]
        return b"".join(raw) if raw else "".join(part for part in parts if isinstance(part, str))


def parse_long_line(line: memoryview, row: str, where: str) -> Any:
    """Parse a line of JSON without decoding its long strings.

    Args:
        line: The line.
        row: The row, as an error message names it.
        where: The source's field in the run document; error messages begin with it.

    Returns:
        The value as from `orjson.loads`, but long strings that are members of the outermost object are `LongText`.

    Raises:
        orjson.JSONDecodeError: It is not JSON. An error inside a long string is raised when the string is read.
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
    # Integers that do not occur in the rest of the line replace the strings. Unlike a string, an integer has only one
    # spelling.
    first, rest = 10**15, b" ".join(between)
    while any(b"%d" % number in rest for number in range(first, first + len(raw))):
        first += len(raw)
    numbers = range(first, first + len(raw))
    value = loads(
        b"".join(
            part for pair in zip(between, [*(b"%d" % number for number in numbers), b""], strict=True) for part in pair
        )
    )
    taken = {
        number: LongText(partial(_decoded, string, row, where)) for number, string in zip(numbers, raw, strict=True)
    }
    if not isinstance(value, dict):
        return _put_back(value, taken)
    return {name: _found(member, taken) or _put_back(member, taken) for name, member in value.items()}


def _found(value: Any, taken: Mapping[int, LongText]) -> LongText | None:
    return taken.get(value) if isinstance(value, int) else None


def _put_back(value: Any, taken: Mapping[int, LongText]) -> Any:
    """A nested value with its long strings as normal strings, because only direct members of the row are read part by
    part.
    """
    if isinstance(value, list):
        return [_put_back(member, taken) for member in value]
    if isinstance(value, dict):
        return {name: _put_back(member, taken) for name, member in value.items()}
    long = _found(value, taken)
    return value if long is None else long.whole()


def _decoded(raw: memoryview, row: str, where: str) -> Iterator[str]:
    with errors_at(where):
        try:
            for piece in json_slices(raw):
                yield orjson.loads(b'"%b"' % piece)
        except orjson.JSONDecodeError as error:
            raise Unreadable(f"{row} is not JSON: {error.msg}; fix the line") from None


def _long_strings(line: memoryview) -> list[list[int]]:
    """Offsets of the opening and the closing quote of each long string of a JSON line."""
    offsets: list[np.ndarray] = []
    inside = False  # whether a window begins inside an escape
    for start in range(0, len(line), _WINDOW_BYTES):
        window = np.frombuffer(line[start : start + _WINDOW_BYTES], np.uint8)
        escaped = np.zeros(len(window) + 1, bool)
        escaped[escape_offsets(window, inside=inside) + 1] = True
        escaped[0] |= inside
        quotes = np.flatnonzero(window == _QUOTE)
        offsets.append(start + quotes[~escaped[quotes]])
        inside = bool(escaped[-1])
    quotes = np.concatenate(offsets)
    pairs = quotes[: len(quotes) // 2 * 2].reshape(-1, 2)
    return pairs[pairs[:, 1] - pairs[:, 0] >= LONG_BYTES].tolist()


def escape_offsets(window: np.ndarray, *, inside: bool = False) -> np.ndarray:
    """Offsets at which escapes begin: every second backslash of a run.

    Args:
        window: Bytes of a JSON string: uint8.
        inside: Whether the byte before the first one begins an escape.
    """
    places = np.flatnonzero(window == _BACKSLASH)
    order = np.arange(len(places))
    first = np.maximum.accumulate(np.where(np.diff(places, prepend=-2) > 1, order, 0))
    second = (order - first) % 2 == 1
    if inside and len(places) and places[0] == 0:
        second[first == 0] ^= True
    return places[~second]


def json_slices(raw: memoryview, slice_bytes: int = _WINDOW_BYTES) -> Iterator[bytes]:
    """Cut the content of a JSON string into slices, each of which is the content of a JSON string.

    Args:
        raw: The bytes between the quotes.
        slice_bytes: Size of the largest slice, at least 16.
    """
    start = 0
    while len(raw) - start > slice_bytes:
        window = bytes(raw[start : start + slice_bytes])
        end = slice_bytes
        for place in escape_offsets(np.frombuffer(window, np.uint8))[-2:][::-1].tolist():
            over = place + (6 if window[place + 1 : place + 2] == b"u" else 2)
            if over > end or (over == end and _HIGH_SURROGATE.match(window, place)):
                end = place
        end = end or slice_bytes  # no complete unit in the window: the parser will report it
        while end > slice_bytes - 4 and raw[start + end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        yield window[:end]
        start += end
    yield bytes(raw[start:])
