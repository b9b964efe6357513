"""A permutation inside windows of the text: the windows keep their order, and the elements inside each window are
shuffled.

A window is a fixed number of neighbours. The order inside a full window depends only on its number and the key, not on
the amount of later text. So training can begin while that text is still being tokenized. The last window of an epoch
has the remaining elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from halcyon.data.order.permutation import Permutation
from halcyon.data.order.together import PermutationQueries, PermutationQuery, run_queries


def groups(keys: np.ndarray) -> Iterator[tuple[int, np.ndarray | slice]]:
    """Yields each different key, rising, and its indices in the flat array.

    A single group is a slice, which avoids a copy.
    """
    if not keys.size:
        return
    keys = keys.reshape(-1)
    if (keys == keys[0]).all():
        yield int(keys[0]), slice(None)
        return
    rising = np.argsort(keys, kind="stable")
    for places in np.split(rising, np.flatnonzero(np.diff(keys[rising])) + 1):
        yield int(keys[places[0]]), places


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


class BlockPermutation:
    """A permutation of ``[0, size)`` that keeps neighbours together, determined by ``key``.

    Args:
        size: Number of elements.
        key: Any bytes. Equal keys give equal permutations.
        block_size: Elements of a block; the last block may have fewer.
        window_blocks: Blocks of a window; the last window may have fewer.
    """

    def __init__(self, size: int, key: bytes, *, block_size: int, window_blocks: int) -> None:
        self.size = size
        self.block_size = block_size
        self._window_blocks = window_blocks
        self.window_size = block_size * window_blocks
        """Elements of a full window."""
        self._key = key
        blocks = -(-size // block_size)
        self._blocks = Permutation(blocks, key + b"/blocks")
        self._missing = blocks * block_size - size
        self._short: tuple[int, int] | None = None
        """End of the short block and end of its window, both counted as if all blocks were full.

        Computed at the first use.
        """
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
        if self._short is None:
            last_block = np.array([self._blocks.size - 1])
            place = int((yield PermutationQuery(self._blocks, last_block, inverse=True))[0])
            window_end = min(self._blocks.size, (place // self._window_blocks + 1) * self._window_blocks)
            self._short = (place + 1) * self.block_size, window_end * self.block_size
        short_end, short_window_end = self._short
        windows = self._as_if_full(places, short_window_end) // self.window_size
        shuffled = np.empty_like(places)
        for window, inside in groups(windows):
            first, permutation = self._window(window, short_window_end)
            shuffled[inside] = first + (yield PermutationQuery(permutation, places[inside] - first))
        blocks, inner = np.divmod(self._as_if_full(shuffled, short_end), self.block_size)
        return (yield PermutationQuery(self._blocks, blocks)) * self.block_size + inner

    def _as_if_full(self, places: np.ndarray, short_end: int) -> np.ndarray:
        """The places if the short block, or its window, which ends at ``short_end``, were full."""
        return places + np.where(places >= short_end - self._missing, self._missing, 0)

    def _draw(self, window: int, short_window_end: int) -> tuple[int, Permutation]:
        """First place of a window, and the permutation of the window."""
        first, end = window * self.window_size, (window + 1) * self.window_size
        first -= self._missing if first >= short_window_end else 0
        end -= self._missing if end >= short_window_end else 0
        return first, Permutation(min(end, self.size) - first, self._key + f"/windows/{window}".encode())
