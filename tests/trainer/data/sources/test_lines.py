"""Cutting: nothing is lost, and where a block ends depends on the text alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.sources.lines import Block, cut_lines, trim

TEXT = st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r\n", b"longer line of text"]), max_size=60).map(b"".join)


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
    assert b"".join(block.data for block in blocks) == data
    for block in blocks[:-1]:
        assert block.data.endswith(b"\n")
        assert b"\n" not in block.data[target - 1 : -1]
        assert len(block.data) >= target
    assert sum(block.rows for block in blocks) == len(data.splitlines()) if b"\r" not in data else True
    assert [block.rows for block in blocks] == [len(block.data.removesuffix(b"\n").split(b"\n")) for block in blocks]


@settings(max_examples=60)
@given(TEXT.filter(bool), st.integers(-2, 70), st.integers(-2, 70))
def test_trimming_keeps_the_lines_asked_for(data: bytes, first: int, end: int) -> None:
    (block,) = cut_lines([data], len(data) + 1)
    first, end = min(max(first, 0), block.rows), min(max(end, 0), block.rows)
    if first < end:
        lines = data.split(b"\n")[: block.rows]
        kept, before = trim(block, first, end)
        assert data[before : before + len(kept.data)] == kept.data
        assert kept.rows == end - first
        assert kept.data.removesuffix(b"\n").split(b"\n") == lines[first:end]


def test_a_line_longer_than_the_target_is_one_block() -> None:
    assert list(cut_lines([b"a" * 10] * 10 + [b"\nb"], 16)) == [Block(b"a" * 100 + b"\n", 1), Block(b"b", 1)]
