"""Cuts a stream of chunks into blocks of whole lines: cheap enough for one process that supplies many workers.

A block ends at the first line end at or after `target_bytes`. So its bounds depend only on the text, not on the chunks:
pieces do not depend on the location or the compression of a file. A block is too large for memory only if its last line
is long; such a block is written to a temporary file while it arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from halcyon.data.sources import long_text
from halcyon.data.sources.spill_file import SpillFile

_LINE_END = 10


class Block(NamedTuple):
    """A block of whole lines."""

    size_bytes: int
    rows: int
    """Number of lines, blank lines included; the last line of a file may have no line end."""
    text: bytes | SpillFile | None
    """The lines, in a temporary file if they are long; None: not kept."""

    def chunks(self) -> Iterator[bytes]:
        """The text, if it is kept."""
        if isinstance(self.text, bytes):
            yield self.text
        elif self.text is not None:
            yield from self.text.chunks()


def cut_lines(chunks: Iterable[bytes | memoryview], target_bytes: int, *, keep: bool = True) -> Iterator[Block]:
    """Blocks of whole lines, in order. A line longer than `target_bytes` makes a larger block.

    Args:
        chunks: The text.
        target_bytes: A block ends with the first line that ends at or after this size.
        keep: Whether to keep the blocks' text; False: only their bounds.
    """
    held = _Held(keep)
    for chunk in chunks:
        data = chunk if isinstance(chunk, bytes) else bytes(chunk)
        start = 0
        while (end := data.find(b"\n", start + max(0, target_bytes - 1 - held.size_bytes)) + 1) > 0:
            held.add(data, start, end)
            yield held.block()
            held, start = _Held(keep), end
        held.add(data, start, len(data))
    if held.size_bytes:
        yield held.block()


def offset_of_line(chunks: Iterable[bytes], line: int) -> int:
    """Offset of the begin of a line, in bytes from the first chunk; lines are counted from 0."""
    offset = 0
    for chunk in chunks:
        ends = chunk.count(b"\n")
        if ends >= line:
            place = 0
            for _ in range(line):
                place = chunk.find(b"\n", place) + 1
            return offset + place
        offset, line = offset + len(chunk), line - ends
    return offset


class _Held:
    """The part of a block that has arrived."""

    def __init__(self, keep: bool) -> None:
        self.size_bytes = 0
        self._keep = keep
        self._line_ends = 0
        self._ended = True
        self._parts: list[bytes | memoryview] = []
        self._aside: SpillFile | None = None

    def add(self, data: bytes, start: int, end: int) -> None:
        if start == end:
            return
        self.size_bytes += end - start
        # Four times faster than bytes.count.
        self._line_ends += int(np.count_nonzero(np.frombuffer(data, np.uint8, end - start, start) == _LINE_END))
        self._ended = data.endswith(b"\n", start, end)
        if not self._keep:
            return
        self._parts.append(memoryview(data)[start:end])
        if self._aside is None and self.size_bytes > long_text.LONG_BYTES:
            self._aside = SpillFile.make()
        if self._aside is not None:
            self._aside.append(self._parts)
            self._parts.clear()

    def block(self) -> Block:
        text = None if not self._keep else b"".join(self._parts) if self._aside is None else self._aside
        return Block(self.size_bytes, self._line_ends + (not self._ended), text)
