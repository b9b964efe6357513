"""Which sequence stands where in training: positions of an endless run to ranks of an epoch.

Position ``p`` is in epoch ``p // n`` at place ``p % n``. Each epoch has its own order, keyed by the seed, the source's *name* and the
epoch's number, so every sequence is seen once before any is seen twice, no two epochs have the same order, and a second source would
disturb the first one's order in no way.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from halcyon.data.permutation import Permutation


class Order:
    """The order of training.

    Args:
        sequences: Sequences of an epoch, n.
        seed: Seed of the run.
        source: Name of the source.
        shuffle: False: every epoch in the order of the text.
    """

    def __init__(self, *, sequences: int, seed: int, source: str, shuffle: bool) -> None:
        self.sequences = sequences
        self._seed = seed
        self._source = source
        self._shuffle = shuffle
        # Two epochs are in use at once where a batch lies across their border.
        self._epoch_order = lru_cache(maxsize=2)(self._draw)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The ranks, 0 to n - 1, at positions of the run: int64, same shape."""
        positions = np.asarray(positions, np.int64)
        epochs, places = np.divmod(positions, self.sequences)
        if not self._shuffle:
            return places
        ranks = np.empty_like(places)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            ranks[inside] = self._epoch_order(int(epoch))(places[inside])
        return ranks

    def _draw(self, epoch: int) -> Permutation:
        return Permutation(self.sequences, f"halcyon/order/1/{self._seed}/{self._source}/{epoch}".encode())
