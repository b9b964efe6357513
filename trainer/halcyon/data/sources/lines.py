"""A stream of chunks, cut into blocks of whole lines: cheap enough for one process that feeds many.

Where a block ends depends on the text alone, never on how it arrived: at the first line end at or after `target_bytes`. So pieces are the
same wherever a file lies and however it is compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

_LINE_END = 10


class Block(NamedTuple):
    """Some whole lines."""

    data: bytes
    rows: int
    """Lines, blank ones included; the last line of a file need not end."""


def cut_lines(chunks: Iterable[bytes | memoryview], target_bytes: int) -> Iterator[Block]:
    """Blocks of whole lines, in order. A line longer than `target_bytes` makes a larger block."""
    waiting: list[bytes | memoryview] = []
    waiting_bytes = 0
    for chunk in chunks:
        waiting.append(chunk)
        waiting_bytes += len(chunk)
        # Only a line end at or after the target ends a block, and what came before this chunk was searched for one already.
        searched = max(waiting_bytes - len(chunk), target_bytes - 1)
        if waiting_bytes <= searched or _find(chunk, searched - (waiting_bytes - len(chunk))) < 0:
            continue
        data, start = b"".join(waiting), 0
        end = data.find(b"\n", searched) + 1
        while end:
            yield _block(data[start:end])
            start, end = end, data.find(b"\n", end + target_bytes - 1) + 1
        waiting.clear()
        waiting.append(data[start:])
        waiting_bytes = len(data) - start
    if waiting_bytes:
        yield _block(b"".join(waiting))


def trim(block: Block, first: int, end: int) -> tuple[Block, int]:
    """The lines [first, end) of a block, and how many bytes are before them."""
    if first <= 0 and end >= block.rows:
        return block, 0
    ends = np.flatnonzero(np.frombuffer(block.data, np.uint8) == _LINE_END) + 1
    starts = np.concatenate([[0], ends, [len(block.data)]])
    first, end = max(first, 0), min(end, block.rows)
    return Block(block.data[int(starts[first]) : int(starts[end])], end - first), int(starts[first])


def _block(data: bytes) -> Block:
    return Block(data, data.count(b"\n") + (not data.endswith(b"\n")))


def _find(chunk: bytes | memoryview, start: int) -> int:
    return (chunk if isinstance(chunk, bytes) else bytes(chunk)).find(b"\n", start)
