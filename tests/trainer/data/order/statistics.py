"""Statistics that distinguish an order from a true shuffle, and two weak orders that they must distinguish from one.

A statistic maps an order of ``0 .. n - 1`` to a number. Its mean over many drawn orders is compared with its mean over
NumPy's Fisher-Yates shuffles, in standard errors. Seeds and keys are fixed, so the outcome is deterministic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np

Draw = Callable[[int, int], np.ndarray]
"""(n, number) → the order of n elements with this number: int64 [n]."""
Statistic = Callable[[np.ndarray], float]

DRAWS = 40


def true_shuffle(size: int, number: int) -> np.ndarray:
    return np.random.default_rng([12345, number]).permutation(size)


def adjacent_distance(order: np.ndarray) -> float:
    return float(np.abs(np.diff(order)).mean())


def serial_correlation(lag: int) -> Statistic:
    return lambda order: float(np.corrcoef(order[:-lag], order[lag:])[0, 1])


def distinct_differences(lag: int) -> Statistic:
    """Share of distinct values among the differences of elements ``lag`` apart: small if differences recur."""
    return lambda order: np.unique(order[lag:] - order[:-lag]).size / order.size


def most_frequent_difference(lag: int) -> Statistic:
    """Number of the most frequent difference modulo n, for elements ``lag`` apart; a linear congruence has one
    difference only.
    """
    return lambda order: float(np.bincount((order[lag:] - order[:-lag]) % order.size).max())


def correlation_with_place(order: np.ndarray) -> float:
    return float(np.corrcoef(order, np.arange(order.size))[0, 1])


def spread_of_batch_means(order: np.ndarray) -> float:
    return float(order[: order.size // 32 * 32].reshape(-1, 32).mean(axis=1).std())


def kept_neighbours(order: np.ndarray) -> float:
    """Number of pairs of neighbours that are still neighbours."""
    return float((np.abs(np.diff(order)) == 1).sum())


def distance_of_next_neighbours(order: np.ndarray) -> float:
    """Median distance, in the order, of neighbours in the text, divided by the mean distance."""
    places = np.empty(order.size)
    places[order] = np.arange(order.size)
    distances = np.abs(np.diff(places))
    return float(np.median(distances) / distances.mean())


def low_bit_runs(order: np.ndarray) -> float:
    """Share of steps at which the lowest bit changes."""
    return float((np.diff(order % 2) != 0).mean())


def evenness_of_batches(order: np.ndarray) -> float:
    """Mean chi-squared of batches of 64 over eight parts of the text; for a linear congruence it is smaller than by
    chance.
    """
    batches = order[: order.size // 64 * 64].reshape(-1, 64) * 8 // order.size
    counts = np.stack([(batches == part).sum(axis=1) for part in range(8)])
    return float(((counts - 8) ** 2 / 8).sum(axis=0).mean())


def cycles(order: np.ndarray) -> float:
    places, count = order.tolist(), 0
    for start in range(len(places)):
        if places[start] >= 0:
            count += 1
            while (following := places[start]) >= 0:
                places[start] = -1
                start = following
    return float(count)


STATISTICS: dict[str, Statistic] = {
    "adjacent distance": adjacent_distance,
    **{f"serial correlation at lag {lag}": serial_correlation(lag) for lag in (1, 2, 3, 4, 8, 16, 64, 256)},
    **{f"distinct differences at lag {lag}": distinct_differences(lag) for lag in (1, 2, 4, 8, 64, 128)},
    **{f"most frequent difference at lag {lag}": most_frequent_difference(lag) for lag in (1, 2, 64)},
    "correlation with place": correlation_with_place,
    "spread of batch means": spread_of_batch_means,
    "kept neighbours": kept_neighbours,
    "distance of next neighbours": distance_of_next_neighbours,
    "low bit runs": low_bit_runs,
    "evenness of batches": evenness_of_batches,
    "cycles": cycles,
}


@lru_cache(maxsize=8)
def of_true_shuffles(size: int) -> dict[str, np.ndarray]:
    return statistics_of(true_shuffle, size)


def statistics_of(draw: Draw, size: int) -> dict[str, np.ndarray]:
    """All statistics of `DRAWS` orders; each is float64 [DRAWS]."""
    orders = [draw(size, number) for number in range(DRAWS)]
    return {name: np.array([statistic(order) for order in orders]) for name, statistic in STATISTICS.items()}


def deviations(draw: Draw, size: int) -> dict[str, float]:
    """Difference of each statistic's mean over `DRAWS` orders from its mean over true shuffles, in standard errors."""
    ours, theirs = statistics_of(draw, size), of_true_shuffles(size)
    return {
        name: float(abs(a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / DRAWS))
        for name, (a, b) in ((name, (ours[name], theirs[name])) for name in ours)
    }


def linear_congruence(size: int, number: int) -> np.ndarray:
    """``a i + c`` modulo n: Levanter's first shuffle."""
    rng = np.random.default_rng(number)
    factor = int(rng.integers(1, size))
    while np.gcd(factor, size) > 1:
        factor = int(rng.integers(1, size))
    return (factor * np.arange(size) + int(rng.integers(size))) % size


def multiply_add_mask(size: int, number: int, *, rounds: int = 5) -> np.ndarray:
    """A Feistel network with the round function ``(a x + b) & mask`` and cycle walking: Levanter's present shuffle."""
    bits = max(2, (size - 1).bit_length())
    bits += bits % 2
    half = bits // 2
    mask = (1 << half) - 1
    keys = np.frombuffer(hashlib.shake_256(number.to_bytes(8, "little")).digest(16 * rounds), "<u8").reshape(
        rounds, 2
    ) >> np.uint64(1)

    def network(numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> np.uint64(half), numbers & np.uint64(mask)
        for factor, summand in keys | np.uint64(1):
            left, right = right, left ^ ((right * factor + summand) & np.uint64(mask))
        return left << np.uint64(half) | right

    walked = network(np.arange(size, dtype=np.uint64))
    while (outside := np.flatnonzero(walked >= size)).size:
        walked[outside] = network(walked[outside])
    return walked.astype(np.int64)
