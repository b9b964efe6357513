"""No statistic here distinguishes an epoch's order from a true shuffle; they do distinguish the weak orders that other
projects use.
"""

from __future__ import annotations

import numpy as np
import pytest

from halcyon.data.order.epochs import Order
from halcyon.data.order.windows import BlockPermutation, WindowPermutation
from halcyon_api.spec.data import OrderSpec, RandomOrderSpec
from tests.trainer.data.order.statistics import Draw, deviations, linear_congruence, multiply_add_mask

RANDOM = OrderSpec(random=RandomOrderSpec())
BOUND = 4.5
"""In standard errors. A true shuffle exceeds it in one of some hundred thousand statistics."""


def epoch(size: int, number: int) -> np.ndarray:
    """The orders of successive epochs of one source."""
    return Order(RANDOM, sequences=size, seed=1, source="web")(np.arange(number * size, (number + 1) * size))


def run(size: int, number: int) -> np.ndarray:
    """The first epochs of runs with successive seeds."""
    return Order(RANDOM, sequences=size, seed=number, source="web")(np.arange(size))


def blocks(size: int, number: int) -> np.ndarray:
    """The order of blocks, by one of the two blocks of each window."""
    order = BlockPermutation(6 * 2 * size - 4, f"{number}".encode(), block_size=6, window_blocks=2)
    met = order(np.arange(0, 12 * size - 12, 12)) // 6
    return np.argsort(np.argsort(met))


def window(size: int, number: int) -> np.ndarray:
    """The order inside the second window."""
    elements = BlockPermutation(3 * size + 1, f"{number}".encode(), block_size=1, window_blocks=size)(
        np.arange(size, 2 * size)
    )
    return np.argsort(np.argsort(elements))


def one_window(size: int, number: int) -> np.ndarray:
    """The whole source in one window."""
    return BlockPermutation(size, f"{number}".encode(), block_size=16, window_blocks=size)(np.arange(size))


def text_window(size: int, number: int) -> np.ndarray:
    """The order inside a window of the text that is neither the first nor the last."""
    elements = WindowPermutation(2 * size + 7, f"{number}".encode(), window_size=size)(np.arange(size, 2 * size))
    return elements - size


def short_window(size: int, number: int) -> np.ndarray:
    """The order inside the last window, which has fewer sequences than the others."""
    elements = WindowPermutation(4 * size, f"{number}".encode(), window_size=3 * size)(np.arange(3 * size, 4 * size))
    return elements - 3 * size


@pytest.mark.parametrize(
    ("draw", "size"),
    [
        (epoch, 1000),
        (run, 4096),
        (blocks, 301),
        (window, 1000),
        (text_window, 1000),
        *(
            pytest.param(*case, marks=pytest.mark.variant)
            for case in (
                *((epoch, 4096), (epoch, 5003), (window, 4096), (one_window, 5003)),
                *((text_window, 4096), (short_window, 1000)),
            )
        ),
    ],
)
def test_an_order_cannot_be_distinguished_from_a_true_shuffle(draw: Draw, size: int) -> None:
    assert {name: value for name, value in deviations(draw, size).items() if value > BOUND} == {}


def test_a_true_shuffle_passes_the_same_statistics() -> None:
    found = deviations(lambda size, number: np.random.default_rng([7, number]).permutation(size), 4096)
    assert max(found.values()) < BOUND


@pytest.mark.parametrize("size", [1000, 4096, 5003])
@pytest.mark.parametrize("weak", [linear_congruence, multiply_add_mask])
def test_weak_orders_are_detected(weak: Draw, size: int) -> None:
    """The statistics detect Levanter's first and its present shuffle (its issue #1803)."""
    found = deviations(weak, size)
    outside = [name for name, value in found.items() if value > 2 * BOUND]
    assert len(outside) > 8
    assert any("distinct differences" in name for name in outside)


def test_orders_of_different_epochs_sources_and_seeds_are_uncorrelated() -> None:
    size = 5000
    orders = [
        Order(RANDOM, sequences=size, seed=seed, source=source)(np.arange(number * size, (number + 1) * size))
        for seed in (0, 1)
        for source in ("web", "web2")
        for number in range(3)
    ]
    correlations = np.abs(np.corrcoef(orders) - np.eye(len(orders)))
    assert correlations.max() < 4.5 / np.sqrt(size)
    agreements = [(orders[a] == orders[b]).sum() for a in range(len(orders)) for b in range(a)]
    assert abs(np.mean(agreements) - 1) < 4.5 / np.sqrt(len(agreements))  # Poisson, as for two true shuffles
    shifts = [
        ((orders[a] - orders[b]) % size == shift).sum() for a in range(4) for b in range(a) for shift in range(1, 100)
    ]
    assert max(shifts) < 10
