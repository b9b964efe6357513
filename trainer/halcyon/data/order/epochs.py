"""Maps positions of an endless run to ranks in an epoch.

Position ``p`` is in epoch ``p // n`` at place ``p % n``. Each epoch has its own order, keyed by the seed, the source's
*name* and the epoch's number. So every sequence is seen once before any is seen twice, no two epochs have the same
order, and adding, removing or renaming another source does not change this source's order.
"""

from functools import lru_cache

import numpy as np

from halcyon.data.order.permutation import Permutation, checked_positions
from halcyon.data.order.windows import BlockPermutation, WindowPermutation, groups
from halcyon_api.spec.data import OrderSpec


class Order:
    """The training order of a source.

    Args:
        spec: ``spec.data.order``.
        sequences: Training sequences of an epoch, n.
        seed: Seed of the run.
        source: Name of the source.
    """

    def __init__(self, spec: OrderSpec, *, sequences: int, seed: int, source: str) -> None:
        self._spec = spec
        self.sequences = sequences
        self._key = f"halcyon/order/1/{seed}/{source}"
        # A batch across the border of two epochs uses both.
        self._epoch_order = lru_cache(maxsize=2)(self._draw)

    @property
    def settled(self) -> int:
        """Number of first positions whose ranks do not depend on later sequences."""
        if self._spec.sequential is not None:
            return self.sequences
        window = self._spec.windows
        return 0 if window is None else self.sequences // window.sequences * window.sequences

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The ranks, 0 to n - 1, at positions of the run: int64, same shape.

        Raises:
            IndexError: A position is below 0.
        """
        epochs, ranks = np.divmod(checked_positions(positions), max(1, self.sequences))
        if self._spec.sequential is None:
            for epoch, inside in groups(epochs):
                ranks.flat[inside] = self._epoch_order(epoch)(ranks.flat[inside])
        return ranks

    def _draw(self, epoch: int) -> Permutation | BlockPermutation | WindowPermutation:
        key = f"{self._key}/{epoch}".encode()
        if (windows := self._spec.windows) is not None:
            return WindowPermutation(self.sequences, key, window_size=windows.sequences)
        if (blocks := self._spec.blocks) is not None:
            return BlockPermutation(
                self.sequences, key, block_size=blocks.block_sequences, window_blocks=blocks.window_blocks
            )
        return Permutation(self.sequences, key)
