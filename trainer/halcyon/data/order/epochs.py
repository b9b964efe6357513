"""Maps positions of an endless run to ranks in an epoch.

Position ``p`` is in epoch ``p // n`` at place ``p % n``. Each epoch has its own order, keyed by the seed, the source's
*name* and the epoch's number. So every sequence is seen once before any is seen twice, no two epochs have the same
order, and adding, removing or renaming another source does not change this source's order.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from halcyon.data.order.permutation import Permutation
from halcyon.data.order.together import PermutationQueries, PermutationQuery, run_queries
from halcyon.data.order.windows import BlockPermutation, WindowPermutation, groups
from halcyon_api.spec.data import BlockOrderSpec, OrderSpec


class Order:
    """The training order of a source.

    Args:
        sequences: Sequences of an epoch, n.
        seed: Seed of the run.
        source: Name of the source.
        shuffle: False: every epoch has the order of the text.
        blocks: Shuffle blocks of neighbours, then inside windows of blocks. Default: shuffle all sequences together.
        window: Shuffle inside windows of this number of neighbours.
    """

    def __init__(
        self,
        *,
        sequences: int,
        seed: int,
        source: str,
        shuffle: bool = True,
        blocks: BlockOrderSpec | None = None,
        window: int | None = None,
    ) -> None:
        self.sequences = sequences
        self._seed = seed
        self._source = source
        self._shuffle = shuffle
        self._blocks = blocks
        self._window = window
        # A batch across the border of two epochs uses both.
        self._epoch_order = lru_cache(maxsize=2)(self._draw)

    @property
    def settled(self) -> int:
        """Number of first positions whose ranks do not depend on later sequences."""
        if not self._shuffle:
            return self.sequences
        return 0 if self._window is None else self.sequences // self._window * self._window

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The ranks, 0 to n - 1, at positions of the run: int64, same shape."""
        return run_queries([self.queries(positions)])[0]

    def queries(self, positions: np.ndarray) -> PermutationQueries:
        """Generator form of a call, for `answered`, which evaluates the permutations of many orders together.

        Raises:
            IndexError: A position is below 0.
        """
        positions = np.asarray(positions, np.int64)
        if positions.size and positions.min() < 0:
            raise IndexError("a position is below 0")
        epochs, places = np.divmod(positions, max(1, self.sequences))
        if not self._shuffle:
            return places
        flat = places.reshape(-1)
        ranks = np.empty_like(flat)
        for epoch, inside in groups(epochs):
            order = self._epoch_order(epoch)
            if isinstance(order, BlockPermutation | WindowPermutation):
                ranks[inside] = yield from order.queries(flat[inside])
            else:
                ranks[inside] = yield PermutationQuery(order, flat[inside])
        return ranks.reshape(places.shape)

    def _draw(self, epoch: int) -> Permutation | BlockPermutation | WindowPermutation:
        key = f"halcyon/order/1/{self._seed}/{self._source}/{epoch}".encode()
        if self._window is not None:
            return WindowPermutation(self.sequences, key, window_size=self._window)
        if self._blocks is None:
            return Permutation(self.sequences, key)
        return BlockPermutation(
            self.sequences, key, block_size=self._blocks.block_sequences, window_blocks=self._blocks.window_blocks
        )


def build_order(spec: OrderSpec, *, sequences: int, seed: int, source: str) -> Order:
    """The order of ``spec.data.order`` for the ``sequences`` training sequences of a source; ``source`` is its name."""
    window = None if spec.windows is None else spec.windows.sequences
    return Order(
        sequences=sequences,
        seed=seed,
        source=source,
        shuffle=spec.sequential is None,
        blocks=spec.blocks,
        window=window,
    )
