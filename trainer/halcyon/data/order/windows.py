"""Permutations that keep neighbours together: for text that is still being tokenized, and for cold object stores.

A window is a fixed number of neighbours, whose elements are shuffled together. `WindowPermutation` keeps the order of
the windows. The order inside a full window depends only on its number and the key, not on the amount of later text. So
training can begin while that text is still being tokenized. The last window of an epoch has the remaining elements.

`BlockPermutation` shuffles blocks of neighbours first. A block is one read. ``window_blocks`` neighbours in the
shuffled order of blocks make a window. So a reader that holds one window in memory reads every block once per epoch.
Each epoch combines other blocks in a window. The last block of a source may be short. It is shuffled like the others:
the inverse of the permutation gives its place ``q`` among the blocks, and everything after it is shifted by the
sequences it lacks. So every step has a closed form and needs no memory.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from halcyon.data.order.permutation import Permutation, checked_places


def groups(keys: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each different key, such as an epoch or a window, rising, and its indices in the flat array."""
    keys = keys.reshape(-1)
    rising = np.argsort(keys, kind="stable")
    for places in np.split(rising, np.flatnonzero(np.diff(keys[rising])) + 1) if keys.size else ():
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
        places = checked_places(places, self.size)
        windows, inner = np.divmod(places, self.window_size)
        elements = places.copy()
        for window, inside in groups(windows):
            elements.flat[inside] = window * self.window_size + self._window(window)(inner.flat[inside])
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
        self.window_size = block_size * window_blocks
        """Elements of a full window."""
        self._key = key
        blocks = -(-size // block_size)
        self._blocks = Permutation(blocks, key + b"/blocks")
        self._missing = blocks * block_size - size
        place = int(self._blocks.inverse(blocks - 1))
        # The ends of the short block and of its window, both counted as if all blocks were full.
        self._short_end = (place + 1) * block_size
        self._short_window_end = min(blocks, (place // window_blocks + 1) * window_blocks) * block_size
        # A batch lies in one window or across a border between two.
        self._window = lru_cache(maxsize=4)(self._draw)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The elements at places: int64, same shape.

        Raises:
            IndexError: A place is outside ``[0, size)``.
        """
        places = checked_places(places, self.size)
        shuffled = places.copy()
        for window, inside in groups(self._as_if_full(places, self._short_window_end) // self.window_size):
            first, permutation = self._window(window)
            shuffled.flat[inside] = first + permutation(places.flat[inside] - first)
        blocks, inner = np.divmod(self._as_if_full(shuffled, self._short_end), self.block_size)
        return self._blocks(blocks) * self.block_size + inner

    def _as_if_full(self, places: np.ndarray, short_end: int) -> np.ndarray:
        """The places if the short block, or its window, which ends at ``short_end``, were full."""
        return places + np.where(places >= short_end - self._missing, self._missing, 0)

    def _draw(self, window: int) -> tuple[int, Permutation]:
        """First place of a window, and the permutation of the window."""
        first, end = window * self.window_size, (window + 1) * self.window_size
        first -= self._missing if first >= self._short_window_end else 0
        end -= self._missing if end >= self._short_window_end else 0
        return first, Permutation(min(end, self.size) - first, self._key + f"/windows/{window}".encode())
