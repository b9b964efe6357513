"""Cutting into blocks loses nothing, and the end of a block depends only on the text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.sources import long_text
from halcyon.data.sources.row_ends import Block, LineScanner, cut_rows, offset_of_row
from halcyon.data.sources.spill_file import SpillFile

TEXT = st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r\n", b"longer line of text"]), max_size=60).map(b"".join)


def cut_lines(chunks: Iterable[bytes | memoryview], target: int, *, keep: bool = True) -> Iterator[Block]:
    return cut_rows(chunks, LineScanner(), target, keep=keep, spills=True)


def chunked(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks, start = [], 0
    for size in sizes:
        chunks.append(data[start : start + size])
        start += size
    return [*chunks, data[start:]]


@settings(max_examples=60)
@given(TEXT, st.integers(1, 40), st.lists(st.integers(0, 30), max_size=20))
def test_blocks_are_whole_lines_and_do_not_depend_on_the_chunks(data: bytes, target: int, sizes: list[int]) -> None:
    blocks = list(cut_lines(chunked(data, sizes), target))
    assert blocks == list(cut_lines([data], target)) == list(cut_lines([memoryview(data)], target))
    texts = [b"".join(block.chunks()) for block in blocks]
    assert b"".join(texts) == data
    for text in texts[:-1]:
        assert text.endswith(b"\n")
        assert b"\n" not in text[target - 1 : -1]
        assert len(text) >= target
    assert sum(block.rows for block in blocks) == len(data.splitlines()) if b"\r" not in data else True
    assert [(block.rows, block.size_bytes) for block in blocks] == [
        (len(text.removesuffix(b"\n").split(b"\n")), len(text)) for text in texts
    ]
    bounds = [
        (block.size_bytes, block.rows, block.text) for block in cut_lines(chunked(data, sizes), target, keep=False)
    ]
    assert bounds == [(block.size_bytes, block.rows, None) for block in blocks]


@settings(max_examples=60)
@given(TEXT.filter(bool), st.integers(0, 70), st.lists(st.integers(0, 30), max_size=20))
def test_where_a_line_begins(data: bytes, line: int, sizes: list[int]) -> None:
    lines = data.split(b"\n")
    line = min(line, len(lines) - 1)
    assert offset_of_row(chunked(data, sizes), LineScanner(), line) == sum(len(before) + 1 for before in lines[:line])


def test_a_line_longer_than_the_target_is_one_block() -> None:
    assert list(cut_lines([b"a" * 10] * 10 + [b"\nb"], 16)) == [Block(101, 1, b"a" * 100 + b"\n"), Block(1, 1, b"b")]


def test_a_long_line_is_spilled_to_a_file_with_the_lines_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "LONG_BYTES", 50)
    data = b"one\ntwo\n" + b"a" * 100 + b"\nthree\n"
    aside, last = cut_lines([data[:30], data[30:60], data[60:]], 16)
    assert isinstance(aside.text, SpillFile)
    assert (aside.rows, last) == (3, Block(6, 1, b"three\n"))
    assert b"".join(aside.chunks()) == data[:-6]
    mapped = aside.text.take()
    assert mapped[:] == data[:-6]
    assert not Path(aside.text.path).exists(), "it must stay valid as long as the mapping"
