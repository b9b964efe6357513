"""Cutting into blocks loses nothing, and the end of a block depends only on the text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.sources import row_ends
from halcyon.data.sources.failures import Unreadable
from halcyon.data.sources.row_ends import Block, LineScanner, cut_rows, offset_of_row
from halcyon.data.sources.spill_file import SpillFile

TEXT = st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r\n", b"longer line of text"]), max_size=60).map(b"".join)


def cut_lines(chunks: Iterable[bytes | memoryview], target: int, *, keep: bool = True) -> Iterator[Block]:
    return cut_rows(chunks, LineScanner(), target, keep=keep)


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
    texts = [block.text or b"" for block in blocks]
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


@pytest.mark.parametrize("keep", [True, False])
def test_a_row_that_is_too_long_for_memory_is_named(keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_ends, "LONGEST_ROW_BYTES", 50)
    allowed = b"one\ntwo\n" + b"a" * 49 + b"\nthree\n"
    blocks = list(cut_lines([allowed[:30], allowed[30:]], 4, keep=keep))
    assert [(block.rows, block.size_bytes) for block in blocks] == [(1, 4), (1, 4), (1, 50), (1, 6)]
    with pytest.raises(Unreadable) as refused:
        list(cut_rows([b"one\ntwo\n", *[b"a" * 10] * 7], LineScanner(), 4, keep=keep, file="a.jsonl"))
    assert str(refused.value) == ("row 2 (counted from 0) of a.jsonl is longer than 0 MiB; split it")


def test_a_full_disk_for_temporary_files_is_reported() -> None:
    with pytest.raises(Unreadable) as refused:
        SpillFile("/dev/full").append([b"a" * 9000])
    assert str(refused.value) == (
        "a text too long for memory cannot be written to /dev/full: No space left on device; free some space there, or "
        "set TMPDIR to a folder on a larger disk"
    )
