"""Spans can be cut into parts and at documents, and then hold the same tokens."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.layout.best_fit import BestFit
from halcyon.data.layout.concatenate import Concatenate
from halcyon.data.layout.pack import Pack
from halcyon.data.layout.spans import Spans, split_at_documents
from tests.trainer.data.layout.documents import ends_of, some_lengths


def tokens_of(spans: Spans, sequences: int) -> list[list[int]]:
    held: list[list[int]] = [[] for _ in range(sequences)]
    for sequence, start, length in zip(spans.sequence, spans.start, spans.length, strict=True):
        held[sequence].extend(range(start, start + length))
    return held


@settings(deadline=None)
@given(some_lengths, st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_parts_train_on_exactly_the_targets_of_the_whole(lengths: list[int], parts: int) -> None:
    length, ends = 12, ends_of(lengths)
    for layout in (
        Concatenate(sum(lengths), length),
        Pack.build(ends, length, max_segments=3, too_long="right"),
        BestFit.build(ends, length, buffer=5),
    ):
        n = layout.sequences
        spans = layout.spans(np.arange(n))
        wholes = tokens_of(spans, n)
        pairs: list[list[tuple[int, int]]] = [[] for _ in range(n)]
        for part in range(parts):
            cut = spans.cut(np.full(n, part), length // parts)
            for held, tokens in zip(pairs, tokens_of(cut, n), strict=True):
                assert len(tokens) <= length // parts + 1
                held.extend(pairwise(tokens))
        assert pairs == [list(pairwise(whole)) for whole in wholes]


def test_each_sequence_can_have_a_part_of_its_own() -> None:
    spans = Concatenate(100, 8).spans(np.array([4, 2, 2]))
    cut = spans.cut(np.array([0, 3, 1]), 2)
    assert tokens_of(cut, 3) == [[36, 37, 38], [24, 25, 26], [20, 21, 22]]


@settings(deadline=None)
@given(some_lengths, st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_each_piece_of_a_span_split_at_documents_is_in_one_document(lengths: list[int], length: int, seed: int) -> None:
    ends = ends_of(lengths)
    layout = Concatenate(sum(lengths), length)
    indices = np.random.default_rng(seed).integers(0, layout.sequences, 5 if layout.sequences else 0)
    spans = layout.spans(indices)
    pieces, documents = split_at_documents(spans, ends)
    assert tokens_of(pieces, len(indices)) == tokens_of(spans, len(indices))
    assert np.all(pieces.length > 0)
    begins = ends - np.array(lengths, np.int64)
    assert np.all(begins[documents] <= pieces.start)
    assert np.all(pieces.start + pieces.length <= ends[documents])
    # Never two pieces where one is enough.
    same = (np.diff(documents) == 0) & (np.diff(pieces.sequence) == 0)
    assert not same.any()


def test_offsets_restart_with_each_sequence() -> None:
    spans = Spans(np.array([0, 0, 1, 3, 3], np.int32), np.zeros(5, np.int64), np.array([2, 3, 4, 1, 9], np.int32))
    assert spans.offset.tolist() == [0, 2, 0, 0, 1]
