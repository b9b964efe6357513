"""The keyed permutation is a bijection, has an inverse, and never changes; all orders of small sets are equally
likely.
"""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from halcyon.data.order.permutation import MAX_SIZE, Permutation

SIZES = [
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    15,
    16,
    17,
    31,
    32,
    33,
    97,
    127,
    128,
    129,
    255,
    256,
    257,
    1000,
    4095,
    4096,
    4097,
    65_535,
    65_537,
    99_991,
]

GOLDEN_10 = [6, 5, 7, 0, 2, 9, 1, 3, 8, 4]
GOLDEN_LARGE = [997077736325, 689674746487, 624825191795, 116587659121]


def key(number: int) -> bytes:
    return f"test/{number}".encode()


@pytest.mark.parametrize("size", SIZES)
def test_every_element_occurs_once_and_has_an_inverse(size: int) -> None:
    for number in range(3):
        permutation = Permutation(size, key(number))
        elements = permutation(np.arange(size))
        assert np.array_equal(np.sort(elements), np.arange(size))
        assert np.array_equal(permutation.inverse(elements), np.arange(size))


@pytest.mark.parametrize(
    "size", [2**31 - 1, 2**31 + 1, 2**32, 2**33 + 1, 2**47 + 5, 2**48 - 1, 2**48, 2**48 + 1, MAX_SIZE - 1, MAX_SIZE]
)
def test_large_permutations_have_an_inverse_and_stay_in_range(size: int) -> None:
    permutation = Permutation(size, key(0))
    ends = np.arange(1000)
    middle = np.random.default_rng(1).integers(0, size, 10_000)
    indices = np.unique(np.concatenate([ends, size - 1 - ends, middle]))
    elements = permutation(indices)
    assert elements.min() >= 0
    assert elements.max() < size
    assert np.unique(elements).size == indices.size
    assert np.array_equal(permutation.inverse(elements), indices)


def test_single_indices_and_arrays_give_the_same_elements() -> None:
    permutation = Permutation(1000, key(0))
    together = permutation(np.arange(1000))
    assert [int(permutation(index)) for index in range(1000)] == together.tolist()
    assert np.array_equal(permutation(np.arange(1000).reshape(10, 100)), together.reshape(10, 100))
    assert permutation(np.empty(0, np.int64)).shape == (0,)


def test_the_same_key_gives_the_same_order_for_ever() -> None:
    assert Permutation(10, b"halcyon")(np.arange(10)).tolist() == GOLDEN_10
    assert Permutation(2**40 + 1, b"halcyon")(np.arange(4)).tolist() == GOLDEN_LARGE


@pytest.mark.parametrize(("size", "index"), [(10, 10), (10, -1), (1, 1)])
def test_an_index_out_of_range_is_an_error(size: int, index: int) -> None:
    with pytest.raises(IndexError, match="outside"):
        Permutation(size, b"")(index)
    with pytest.raises(IndexError, match="outside"):
        Permutation(size, b"").inverse(index)


@pytest.mark.parametrize("size", [0, -1, MAX_SIZE + 1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"1 to 2\*\*62"):
        Permutation(size, b"")


@pytest.mark.parametrize("size", [2, 3, 5])
def test_all_orders_of_a_small_set_are_equally_likely(size: int) -> None:
    orders = list(permutations(range(size)))
    draws = 10 * len(orders)
    counts = Counter(tuple(Permutation(size, key(number))(np.arange(size)).tolist()) for number in range(draws))
    chi_squared = sum((counts[order] - 10) ** 2 / 10 for order in orders)
    freedom = len(orders) - 1
    assert abs(chi_squared - freedom) < 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [16, 33])
def test_every_element_is_equally_likely_everywhere(size: int) -> None:
    draws = 60 * size
    counts = np.zeros((size, size))
    for number in range(draws):
        counts[np.arange(size), Permutation(size, key(number))(np.arange(size))] += 1
    chi_squared = ((counts - 60) ** 2 / 60).sum()
    freedom = (size - 1) ** 2
    assert abs(chi_squared - freedom) < 5 * np.sqrt(2 * freedom)


def test_the_largest_sizes_are_shuffled_too() -> None:
    """A million consecutive places of 2**40: their values are uniform over the domain, and no trace of their order is
    left.
    """
    elements = Permutation(2**40, key(7))(np.arange(2**20)) / 2**40
    counts = np.bincount((elements * 1024).astype(int), minlength=1024)
    chi_squared = ((counts - 1024) ** 2 / 1024).sum()
    assert abs(chi_squared - 1023) < 5 * np.sqrt(2 * 1023)
    for lag in (1, 2, 1024):
        assert abs(np.corrcoef(elements[:-lag], elements[lag:])[0, 1]) < 5 / np.sqrt(2**20)
