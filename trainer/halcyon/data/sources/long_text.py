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

import orjson

from halcyon.data.sources.failures import Unreadable, blamed_on

LONG_BYTES = 8 * 2**20
"""Longer rows are read part by part."""
_SLICE_BYTES = 2**20
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_AFTER_NAME = re.compile(rb"\s*:")
_WHOLE_UNITS = re.compile(
    rb"(?:[^\\]++|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\[^u])*+", re.DOTALL
)
"""Characters and escapes; two surrogates are one."""


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
    for string in _STRING.finditer(line):
        if string.end() - string.start() > LONG_BYTES and not _AFTER_NAME.match(line, string.end()):
            raw.append(line[string.start() + 1 : string.end() - 1])
            between.append(line[end : string.start()])
            end = string.end()
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
            raise Unreadable(f"{row} is not JSON: {error.msg}; mend the line") from None


def json_slices(raw: memoryview, slice_bytes: int = _SLICE_BYTES) -> Iterator[bytes]:
    """The inside of a JSON string in slices that are each the inside of a JSON string.

    Args:
        raw: What lies between the quotes.
        slice_bytes: The largest slice, at least 16.
    """
    start = 0
    while len(raw) - start > slice_bytes:
        window = bytes(raw[start : start + slice_bytes])
        whole = _WHOLE_UNITS.match(window)
        end = (whole.end() if whole else 0) or slice_bytes  # where nothing is whole the parser shall complain
        while end > slice_bytes - 4 and raw[start + end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        yield window[:end]
        start += end
    yield bytes(raw[start:])
