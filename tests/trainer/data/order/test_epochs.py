"""Every epoch has each sequence once, in its own order, which depends only on seed, source name and epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.order.epochs import Order
from halcyon_api.spec.data import BlockOrderSpec, OrderSpec, RandomOrderSpec, SequentialOrderSpec, WindowOrderSpec

SPECS = {
    "random": OrderSpec(random=RandomOrderSpec()),
    "blocks": OrderSpec(blocks=BlockOrderSpec(block_sequences=3, window_blocks=4)),
    "windows": OrderSpec(windows=WindowOrderSpec(sequences=20)),
    "sequential": OrderSpec(sequential=SequentialOrderSpec()),
}


@pytest.mark.parametrize("kind", SPECS)
@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_every_epoch_has_each_sequence_once(kind: str, sequences: int, seed: int) -> None:
    order = Order(SPECS[kind], sequences=sequences, seed=seed, source="web")
    ranks = order(np.arange(5 * sequences)).reshape(5, sequences)
    assert np.array_equal(np.sort(ranks, axis=1), np.tile(np.arange(sequences), (5, 1)))


@pytest.mark.parametrize("kind", ["random", "blocks", "windows"])
def test_no_epoch_repeats_another(kind: str) -> None:
    """Levanter's second epoch has the order of its first (its issue #2869)."""
    ranks = Order(SPECS[kind], sequences=50, seed=0, source="web")(np.arange(1000)).reshape(20, 50)
    assert len(np.unique(ranks, axis=0)) == 20


def test_the_order_of_the_text_is_the_same_in_every_epoch() -> None:
    ranks = Order(SPECS["sequential"], sequences=7, seed=0, source="web")(np.arange(21))
    assert ranks.tolist() == 3 * list(range(7))


@pytest.mark.parametrize("kind", SPECS)
def test_positions_of_many_epochs_in_any_order_and_shape(kind: str) -> None:
    whole = Order(SPECS[kind], sequences=11, seed=2, source="web")(np.arange(600))
    scattered = np.random.default_rng(1).permutation(600).reshape(20, 30)
    assert np.array_equal(Order(SPECS[kind], sequences=11, seed=2, source="web")(scattered), whole[scattered])
    assert Order(SPECS[kind], sequences=11, seed=2, source="web")(np.empty((0, 3), np.int64)).shape == (0, 3)


def test_positions_of_a_far_epoch_are_computed_at_once() -> None:
    order = Order(SPECS["random"], sequences=2**48, seed=0, source="web")
    positions = 2**48 * 1000 + np.arange(100)
    assert len(np.unique(order(positions))) == 100
    assert order(positions).max() < 2**48


def test_the_order_of_a_key_never_changes() -> None:
    assert Order(SPECS["random"], sequences=10, seed=7, source="web")(np.arange(20)).tolist() == GOLDEN


def test_a_position_below_0_is_an_error() -> None:
    with pytest.raises(IndexError, match="below 0"):
        Order(SPECS["random"], sequences=10, seed=7, source="web")(np.array([-1]))


GOLDEN = [1, 8, 9, 3, 5, 7, 4, 6, 2, 0, 4, 9, 3, 1, 2, 0, 8, 5, 6, 7]
