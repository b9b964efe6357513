"""Block order uses every sequence once an epoch, reads every block once, and treats a short last block like all
others.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.data.order.epochs import Order
from halcyon.data.order.windows import BlockPermutation
from halcyon_api.spec.data import BlockOrderSpec, OrderSpec


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 150), st.integers(1, 20), st.integers(1, 9), st.binary(max_size=4))
def test_every_sequence_comes_once_and_windows_hold_whole_blocks(
    size: int, block_size: int, window_blocks: int, key: bytes
) -> None:
    order = BlockPermutation(size, key, block_size=block_size, window_blocks=window_blocks)
    elements = order(np.arange(size))
    assert np.array_equal(np.sort(elements), np.arange(size))
    # Walk through the epoch by windows: a window ends after all sequences of its blocks.
    blocks = elements // block_size
    sizes = np.bincount(np.arange(size) // block_size)
    first, left = 0, set(range(len(sizes)))
    while first < size:
        window = set()
        end = first
        while len(window) < min(window_blocks, len(left)):
            window.add(int(blocks[end]))
            end += 1
        end = first + int(sizes[list(window)].sum())
        assert set(blocks[first:end].tolist()) == window
        left -= window
        first = end
    assert not left


@pytest.mark.parametrize("size", [2**40 + 17, 2**48, 2**48 - 255])
def test_large_sources_cost_no_more(size: int) -> None:
    order = BlockPermutation(size, b"key", block_size=256, window_blocks=512)
    places = np.concatenate([np.arange(1000), size // 2 + np.arange(1000), size - 1000 + np.arange(1000)])
    elements = order(places)
    assert len(np.unique(elements)) == len(places)
    assert elements.min() >= 0
    assert elements.max() < size
    assert len(np.unique(elements[:1000] // 256)) > 400  # a true shuffle of 512 blocks gives 439


def test_the_short_block_has_a_random_place() -> None:
    """In Levanter it is at the end of every epoch."""
    places = []
    for number in range(180):
        elements = BlockPermutation(8 * 10 + 3, f"{number}".encode(), block_size=10, window_blocks=1)(np.arange(83))
        places.append(int(np.flatnonzero(elements >= 80)[0]))
    counts = np.bincount(np.array(places) // 10, minlength=9)
    assert np.abs(counts - 180 / 9).max() < 4.5 * np.sqrt(180 / 9)


def test_single_positions_equal_those_of_the_whole_order() -> None:
    spec = OrderSpec(blocks=BlockOrderSpec(block_sequences=7, window_blocks=5))
    whole = Order(spec, sequences=500, seed=3, source="web")(np.arange(2000))
    scattered = np.random.default_rng(0).permutation(2000)
    again = Order(spec, sequences=500, seed=3, source="web")
    assert np.array_equal(again(scattered), whole[scattered])
    assert len(np.unique(whole.reshape(4, 500), axis=0)) == 4
    assert whole[:12].tolist() == GOLDEN


@pytest.mark.parametrize("place", [-1, 10])
def test_a_position_out_of_range_is_an_error(place: int) -> None:
    with pytest.raises(IndexError, match=r"outside \[0, 10\)"):
        BlockPermutation(10, b"", block_size=4, window_blocks=2)(np.array([place]))


GOLDEN = [398, 56, 107, 110, 111, 393, 58, 397, 96, 109, 396, 92]
