"""Held-out and training sequences are disjoint, cover all sequences, and are evenly spread, for any number of
sequences.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.split import MAX_SEQUENCES, Split, split_sequences, split_stream


@settings(deadline=None)
@given(st.integers(0, 3000), st.data())
def test_every_sequence_is_on_exactly_one_side(total: int, data: st.DataObject) -> None:
    split = Split(total, data.draw(st.integers(0, total)))
    training = split.training_sequences(np.arange(split.training))
    validation = split.validation_sequences(np.arange(split.validation))
    assert np.array_equal(np.sort(np.concatenate([training, validation])), np.arange(total))
    assert np.all(np.diff(training) > 0)
    assert np.all(np.diff(validation) > 0)


@settings(deadline=None)
@given(st.integers(2, 5000), st.floats(0.001, 0.999))
def test_held_out_sequences_are_evenly_spaced(total: int, fraction: float) -> None:
    split = split_sequences(total, fraction)
    gaps = np.diff(split.validation_sequences(np.arange(split.validation)))
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


@settings(deadline=None)
@given(st.integers(2**31, MAX_SEQUENCES), st.data())
def test_large_numbers_are_exact_and_disjoint(total: int, data: st.DataObject) -> None:
    """Compared with Python's integers, which do not overflow."""
    count = data.draw(st.integers(1, total - 1))
    split = Split(total, count)
    ranks = data.draw(st.lists(st.integers(0, split.training - 1), min_size=1, max_size=20))
    training = split.training_sequences(np.array(ranks))
    assert training.tolist() == [rank + rank * count // split.training for rank in ranks]
    ranks = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=20))
    validation = split.validation_sequences(np.array(ranks))
    assert validation.tolist() == [((rank + 1) * total - 1) // count for rank in ranks]
    assert not set(training.tolist()) & set(validation.tolist())


@pytest.mark.parametrize("validation", [1, 2, 1000, MAX_SEQUENCES // 2, MAX_SEQUENCES - 1, MAX_SEQUENCES])
def test_the_largest_source_is_split_exactly_at_its_ends(validation: int) -> None:
    split = Split(MAX_SEQUENCES, validation)
    assert split.validation_sequences(np.array([validation - 1])).tolist() == [MAX_SEQUENCES - 1]
    if split.training:
        assert split.training_sequences(np.array([0])).tolist() == [0]


@pytest.mark.parametrize(
    ("total", "fraction", "validation"),
    [
        (100, 0.1, 10),
        (100, 0.0, 0),
        (100, 0.001, 1),
        (100, 0.5, 50),
        (2, 0.01, 1),
        (1, 0.5, 0),
        (0, 0.5, 0),
        (3, 0.5, 2),
        (1001, 0.01, 10),
        (1, 1.0, 1),
        (100, 1.0, 100),
        (100, 0.9999, 99),
        (MAX_SEQUENCES, 1.0, MAX_SEQUENCES),
        (MAX_SEQUENCES, 0.25, MAX_SEQUENCES // 4),
    ],
)
def test_the_number_of_held_out_sequences_follows_the_fraction(total: int, fraction: float, validation: int) -> None:
    assert split_sequences(total, fraction) == Split(total, validation)


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Split(MAX_SEQUENCES + 1, 0)
    with pytest.raises(ValueError, match="cannot hold out 3 of 2"):
        Split(2, 3)
    with pytest.raises(IndexError, match=r"outside \[0, 8\)"):
        Split(10, 2).training_sequences(np.array([8]))
    with pytest.raises(IndexError, match=r"outside \[0, 0\)"):
        Split(10, 0).validation_sequences(np.array([0]))


some_shares = st.one_of(
    st.floats(0, 1),
    st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.51, 2 / 3, 0.9, 0.999, 1.0, 1e-12, 1 - 1e-12]),
)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2000), st.integers(0, 2000), some_shares)
def test_a_source_that_grows_keeps_its_held_out_sequences(total: int, more: int, fraction: float) -> None:
    before, after = split_stream(total, fraction), split_stream(total + more, fraction)
    for split in (before, after):
        training = split.training_sequences(np.arange(split.training))
        validation = split.validation_sequences(np.arange(split.validation))
        assert np.array_equal(np.sort(np.concatenate([training, validation])), np.arange(split.total))
        assert split.validation == pytest.approx(fraction * split.total, abs=1.01)
    assert np.array_equal(
        after.training_sequences(np.arange(before.training)), before.training_sequences(np.arange(before.training))
    )
    assert np.array_equal(
        after.validation_sequences(np.arange(before.validation)),
        before.validation_sequences(np.arange(before.validation)),
    )
    if 0 < fraction < 1 and total >= 2:
        first = before.training_sequences(np.array([0])), before.validation_sequences(np.array([0]))
        assert first == (0, 1), "with two sequences or more, neither side is empty"


@pytest.mark.parametrize("fraction", [1e-9, 0.01, 1 / 3, 0.5, 0.7, 0.999999999])
def test_large_sources_that_grow_are_exact(fraction: float) -> None:
    """Compared with the definition in Python's integers."""
    split = split_stream(MAX_SEQUENCES, fraction)
    line = split.line
    assert line is not None
    for rank in (0, 1, split.validation // 2, split.validation - 1):
        (sequence,) = split.validation_sequences(np.array([rank])).tolist()
        assert (line.count(sequence), line.count(sequence + 1)) == (rank, rank + 1)
    for rank in (0, 1, split.training // 2, split.training - 1):
        (sequence,) = split.training_sequences(np.array([rank])).tolist()
        assert sequence - line.count(sequence) == rank
        assert line.count(sequence + 1) == line.count(sequence)


def test_a_fraction_is_used_exactly_as_it_is_written() -> None:
    line = split_stream(1000, 0.01).line
    assert line is not None
    assert (line.numerator, line.denominator) == (1, 100)
