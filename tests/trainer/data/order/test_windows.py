"""Windows come one after another, each is shuffled within itself, and a full window does not depend on later text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.order.epochs import Order
from halcyon.data.order.windows import WindowPermutation
from halcyon_api.spec.data import OrderSpec, SequentialOrderSpec, WindowOrderSpec


def windows(size: int, *, sequences: int, seed: int = 0, source: str = "web") -> np.ndarray:
    """The order of three epochs, [3, size]."""
    spec = OrderSpec(windows=WindowOrderSpec(sequences=sequences))
    return Order(spec, sequences=size, seed=seed, source=source)(np.arange(3 * size)).reshape(3, size)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 500), st.integers(2, 90), st.binary(max_size=4))
def test_every_sequence_comes_once_and_in_its_own_window(size: int, window: int, key: bytes) -> None:
    elements = WindowPermutation(size, key, window_size=window)(np.arange(size))
    assert np.array_equal(np.sort(elements), np.arange(size))
    assert np.array_equal(elements // window, np.arange(size) // window)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 400), st.integers(0, 400), st.integers(2, 60))
def test_more_text_does_not_move_settled_sequences(size: int, more: int, window: int) -> None:
    for spec in (OrderSpec(windows=WindowOrderSpec(sequences=window)), OrderSpec(sequential=SequentialOrderSpec())):
        before = Order(spec, sequences=size, seed=1, source="web")
        after = Order(spec, sequences=size + more, seed=1, source="web")
        assert before.settled == (size // window * window if spec.windows else size)
        settled = np.arange(before.settled)
        assert np.array_equal(before(settled), after(settled))


def test_orders_over_the_whole_source_have_no_settled_sequences() -> None:
    for spec in ({"random": {}}, {"blocks": {"blockSequences": 2, "windowBlocks": 2}}):
        assert Order(OrderSpec.model_validate(spec), sequences=100, seed=0, source="web").settled == 0


def test_windows_epochs_seeds_and_sources_differ() -> None:
    orders = [
        order % 64
        for seed, source in ((0, "web"), (1, "web"), (0, "web2"))
        for epoch in windows(640, sequences=64, seed=seed, source=source)
        for order in epoch.reshape(10, 64)
    ]
    assert len(np.unique(orders, axis=0)) == 90


def test_single_positions_equal_those_of_the_whole_order() -> None:
    whole = windows(500, sequences=70).ravel()
    scattered = np.random.default_rng(0).permutation(1500)
    spec = OrderSpec(windows=WindowOrderSpec(sequences=70))
    assert np.array_equal(Order(spec, sequences=500, seed=0, source="web")(scattered), whole[scattered])


def test_large_sources_cost_no_more() -> None:
    order = WindowPermutation(2**48, b"key", window_size=2**14)
    places = 2**47 - 500 + np.arange(1000)
    elements = order(places)
    assert len(np.unique(elements)) == 1000
    assert np.array_equal(elements // 2**14, places // 2**14)


@pytest.mark.parametrize("place", [-1, 10])
def test_a_position_out_of_range_is_an_error(place: int) -> None:
    with pytest.raises(IndexError, match=r"outside \[0, 10\)"):
        WindowPermutation(10, b"", window_size=4)(np.array([place]))


def test_the_order_of_a_key_never_changes() -> None:
    assert windows(12, sequences=5)[0].tolist() == GOLDEN


GOLDEN = [4, 1, 2, 3, 0, 7, 9, 8, 6, 5, 11, 10]
"""The last window has two sequences."""
