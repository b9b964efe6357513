"""A permutation inside windows of the text: the windows keep their order, and the elements inside each window are
shuffled.

A window is a fixed number of neighbours. The order inside a full window depends only on its number and the key, not on
the amount of later text. So training can begin while that text is still being tokenized. The last window of an epoch
has the remaining elements.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from halcyon.data.order.grouping import groups
from halcyon.data.order.permutation import Permutation
from halcyon.data.order.together import PermutationQueries, PermutationQuery, run_queries


class WindowPermutation:
    """A permutation of ``[0, size)`` inside windows, determined by ``key``.

    Args:
        size: Number of elements.
        key: Any bytes. Equal keys give equal permutations.
        window_size: Elements of a window; the last window may have fewer.
    """

    def __init__(self, size: int, key: bytes, *, window_size: int) -> None:
        self.size = size
        self.window_size = window_size
        self._key = key
        # A batch lies in one window or across a border between two.
        self._window = lru_cache(maxsize=4)(self._draw)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The elements at places: int64, same shape.

        Raises:
            IndexError: A place is outside ``[0, size)``.
        """
        return run_queries([self.queries(np.asarray(places, np.int64).reshape(-1))])[0].reshape(np.shape(places))

    def queries(self, places: np.ndarray) -> PermutationQueries:
        """Generator form of a call, for `answered`; places are int64 [n]."""
        if places.size and (places.min() < 0 or places.max() >= self.size):
            raise IndexError(f"an index is outside [0, {self.size})")
        elements = np.empty_like(places)
        for window, inside in groups(places // self.window_size):
            first = window * self.window_size
            elements[inside] = first + (yield PermutationQuery(self._window(window), places[inside] - first))
        return elements

    def _draw(self, window: int) -> Permutation:
        size = min(self.window_size, self.size - window * self.window_size)
        return Permutation(size, self._key + f"/windows/{window}".encode())
