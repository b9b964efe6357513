"""The held-out windows and the training windows share nothing and leave nothing out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halcyon.data.windows import MAX_WINDOWS, Split, split_windows, window_count


@given(st.integers(0, 3000), st.data())
def test_every_window_is_on_exactly_one_side(total: int, data: st.DataObject) -> None:
    held_out = data.draw(st.integers(0, total))
    split = Split(total, held_out)
    training = split.training_windows(np.arange(split.training)) if split.training else np.empty(0, np.int64)
    validation = split.validation_windows(np.arange(held_out)) if held_out else np.empty(0, np.int64)
    assert np.array_equal(np.sort(np.concatenate([training, validation])), np.arange(total))
    assert np.all(np.diff(training) > 0)
    assert np.all(np.diff(validation) > 0)


@given(st.integers(2, 5000), st.floats(0.001, 0.5))
def test_held_out_windows_lie_evenly(total: int, fraction: float) -> None:
    split = split_windows(total, fraction)
    gaps = np.diff(split.validation_windows(np.arange(split.held_out)))
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("total", [MAX_WINDOWS, MAX_WINDOWS - 1])
def test_the_largest_data_set_does_not_overflow(total: int) -> None:
    split = split_windows(total, 0.37)
    ends = np.array([0, 1, split.training - 2, split.training - 1])
    training = split.training_windows(ends)
    exact = [rank * split.total // split.training for rank in ends.tolist()]
    assert training.tolist() == exact
    assert split.validation_windows(np.array([split.held_out - 1])).tolist() == [total - 1]


@pytest.mark.parametrize(
    ("total", "fraction", "held_out"),
    [(100, 0.1, 10), (100, 0.0, 0), (100, 0.001, 1), (100, 0.5, 50), (2, 0.01, 1), (1, 0.5, 0), (0, 0.5, 0), (3, 0.5, 2), (1001, 0.01, 10)],
)
def test_how_many_are_held_out(total: int, fraction: float, held_out: int) -> None:
    assert split_windows(total, fraction) == Split(total, held_out)


@pytest.mark.parametrize(
    ("tokens", "length", "windows"),
    [(0, 4, 0), (1, 4, 0), (2, 4, 1), (4, 4, 1), (5, 4, 1), (6, 4, 1), (7, 4, 2), (10, 4, 2), (11, 4, 2), (12, 4, 3)],
)
def test_a_rest_of_one_token_is_no_window(tokens: int, length: int, windows: int) -> None:
    assert window_count(tokens, length) == windows


def test_too_many_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Split(MAX_WINDOWS + 1, 0)
