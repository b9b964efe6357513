"""Rows of whole conversations: none is cut if it fits, none is lost, and every row has a token that counts in the
loss.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halcyon.data.layout.spans import arrays_of, first_counted
from halcyon.data.layout.whole import WholePacker, WholeUnits
from tests.trainer.data.corpus import TokensInMemory
from tests.trainer.data.layout.documents import contents, ends_of, packer_for

conversation = st.lists(st.sampled_from([0.0, 0.0, 1.0]), max_size=30)
"""The loss weights of the tokens of a conversation."""


def stream(conversations: list[list[float]]) -> tuple[np.ndarray, TokensInMemory]:
    weights = np.array([weight for one in conversations for weight in one], np.float32)
    return ends_of([len(one) for one in conversations]), TokensInMemory(np.zeros(len(weights), np.int32), weights)


def counted(weights: list[float]) -> list[int]:
    """The tokens that count: the first one of a row is no target, and the first one of a conversation has nothing
    before it.
    """
    return [place for place, weight in enumerate(weights) if weight > 0 and place > 0]


@given(st.lists(conversation, max_size=40), st.integers(2, 24), st.integers(1, 8))
def test_conversations_stay_whole_and_every_row_counts(
    conversations: list[list[float]], length: int, buffer: int
) -> None:
    ends, weights = stream(conversations)
    layout = WholePacker(1, None, buffer).build(ends, weights, length)
    spans = {range(int(end) - len(one), int(end)): one for one, end in zip(conversations, ends, strict=True) if one}
    placed: list[range] = []
    for row in contents(layout):
        assert sum(map(len, row)) <= length + 1
        for piece in row:
            (whole,) = [span for span in spans if piece.start in span]
            assert piece == whole or len(piece) == length + 1 < len(whole)
            assert counted(spans[whole][piece.start - whole.start : piece.stop - whole.start])
            if len(whole) > length + 1 and any(place <= length for place in counted(spans[whole])):
                assert piece.start == whole.start
            placed.append(whole)
    assert sorted(placed, key=lambda span: span.start) == [span for span, one in spans.items() if counted(one)]
    report = layout.report
    assert report.used + report.cropped + report.dropped == sum(map(len, conversations))
    assert report.used + report.padding == layout.sequences * (length + 1)
    assert (report.left_out, report.units) == (len(conversations) - len(placed), len(conversations))


@given(st.lists(st.tuples(conversation, conversation), max_size=30), st.integers(2, 24), st.integers(1, 3))
def test_pairs_stay_together_and_both_answers_count(
    pairs: list[tuple[list[float], list[float]]], length: int, most: int
) -> None:
    both = [one for pair in pairs for one in pair]
    ends, weights = stream(both)
    layout = WholePacker(2, most, 4).build(ends, weights, length)
    begins = [int(end) - len(one) for one, end in zip(both, ends, strict=True)]
    placed: list[int] = []
    for row in contents(layout):
        assert len(row) % 2 == 0
        assert len(row) <= 2 * most
        assert sum(map(len, row)) <= length + 1
        for chosen, rejected in zip(row[::2], row[1::2], strict=True):
            number = next(n for n in range(len(pairs)) if begins[2 * n] == chosen.start and both[2 * n])
            assert rejected.start == begins[2 * number + 1]
            for piece, answer in zip((chosen, rejected), pairs[number], strict=True):
                assert counted(answer[: len(piece)])
            if sum(map(len, pairs[number])) <= length + 1:
                assert (len(chosen), len(rejected)) == tuple(map(len, pairs[number]))
            else:
                assert len(chosen) + len(rejected) == length + 1
            placed.append(number)
    fitting = {n for n, pair in enumerate(pairs) if sum(map(len, pair)) <= length + 1 and all(map(counted, pair))}
    assert len(set(placed)) == len(placed)
    assert fitting <= set(placed)


def test_a_long_conversation_whose_answer_is_late_keeps_context_before_the_answer() -> None:
    ends, weights = stream([[0.0] * 90 + [1.0] * 10])
    layout = WholePacker(1, None, 1).build(ends, weights, 15)
    assert contents(layout) == [[range(82, 98)]]


def test_one_pair_in_a_row_keeps_the_order_of_the_pairs() -> None:
    packer = packer_for({"preference": {"simpo": {}}})
    assert isinstance(packer, WholePacker)
    ends, weights = stream([[0.0, 1.0]] * 4 + [[0.0, 1.0, 1.0]] * 6)
    rows = contents(packer.build(ends, weights, 9))
    assert [row[0].start for row in rows] == sorted(row[0].start for row in rows)
    assert [len(row) for row in rows] == [2] * 5


def test_a_layout_is_rebuilt_from_its_arrays() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 300)
    ends, weights = stream([[0.0] * (size // 2) + [1.0] * (size - size // 2) for size in lengths.tolist()])
    layout = WholePacker(1, None, 20).build(ends, weights, 32)
    again = WholeUnits(**arrays_of(layout), document_ends=ends, sequence_length=32, conversations=1)
    assert contents(again) == contents(layout)
    assert layout.report.padded_share < 0.03


@pytest.mark.parametrize("chunk", [1, 3, 2**22])
def test_the_first_token_that_counts_is_found_in_any_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon.data.layout.spans._CHUNK_TOKENS", chunk)
    conversations = [[], [1.0], [0.0, 0.0, 1.0], [1.0, 1.0], [0.0] * 4, [], [0.0, 0.0, 0.0, 0.0, 1.0]]
    ends, weights = stream(conversations)
    assert first_counted(weights, ends).tolist() == [0, 1, 2, 1, 4, 0, 4]
    every = first_counted(TokensInMemory(np.zeros(18)), ends).tolist()
    assert every == [0, 0, 1, 1, 1, 0, 1], "a text of one token counts"
