"""Concatenation keeps every token once, in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.layout.concatenate import Concatenate
from tests.trainer.data.layout.documents import contents


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(1, 20))
def test_every_token_comes_once_and_in_order(tokens: int, length: int) -> None:
    layout = Concatenate(tokens, length)
    held = [token for sequence in contents(layout) for span in sequence for token in span]
    report = layout.report
    assert held == list(range(tokens - report.dropped))
    assert report.dropped <= 1
    assert (report.sequences, report.used, report.cropped) == (layout.sequences, len(held), 0)
    assert report.used + report.padding == layout.sequences * (length + 1)


@pytest.mark.parametrize(
    ("tokens", "length", "sequences"),
    [(0, 4, 0), (1, 4, 0), (2, 4, 1), (4, 4, 1), (5, 4, 1), (6, 4, 1), (7, 4, 2), (10, 4, 2), (11, 4, 2), (12, 4, 3)],
)
def test_a_remainder_of_one_token_is_no_sequence(tokens: int, length: int, sequences: int) -> None:
    assert Concatenate(tokens, length).sequences == sequences


def test_spans_of_a_trillion_tokens_are_computed_directly() -> None:
    layout = Concatenate(10**12, 4096)
    spans = layout.spans(np.array([layout.sequences - 1, 0, 123_456_789]))
    assert spans.start.tolist() == [(layout.sequences - 1) * 4097, 0, 123_456_789 * 4097]
    assert spans.length.tolist() == [10**12 - (layout.sequences - 1) * 4097, 4097, 4097]
    assert spans.sequence.tolist() == [0, 1, 2]


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_out_of_range_is_an_error(index: int) -> None:
    with pytest.raises(IndexError, match=r"outside \[0, 2\)"):
        Concatenate(10, 4).spans(np.array([index]))
