"""Which source a position of training belongs to, and which of that source's sequences it is.

Positions are cut into blocks. In every block each source has its share to a sequence (`shares`), and the slots of a block are dealt to the
sources in an order drawn by a keyed permutation. A source's sequences come in the order of its own ranks, so the mixture decides when a
source is asked, and the source's order (`halcyon.data.order`) alone decides what it answers: adding, dropping or renaming a source moves
nothing inside the others' orders. A source of weight 0 takes part in nothing, as if it were not there, and sources are sorted by name
first, so their order in the document plays no part.

Weights may change at any position. Blocks are counted from there, and the block that is cut short by the next stage has what its first
slots happen to hold. Ranks go on across stages: no sequence comes twice in an epoch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from halcyon.data.mixture.shares import MAX_BLOCKS, Shares
from halcyon.data.order import Permutation

Stop = Literal["restart", "firstExhausted", "allExhausted"]


class Mixture:
    """A mixture of sources.

    Args:
        names: Names of the sources.
        sequences: Training sequences of an epoch of each source.
        stages: From which position on which weights hold, one weight for each name; the first stage begins at 0.
        block_sequences: Sequences of a block, at most 2**16.
        seed: Seed of the run.
        stop: Where the data ends: never, or when the first source, or the last, has given its last sequence.

    Raises:
        ValueError: A weight is negative or not finite, all weights of a stage are 0, stages do not rise from 0, or a source that has a
            weight has no sequences. The sentence says which.
    """

    def __init__(
        self,
        names: Sequence[str],
        sequences: Sequence[int],
        stages: Sequence[tuple[int, Sequence[float]]],
        *,
        block_sequences: int = 2048,
        seed: int = 0,
        stop: Stop = "restart",
    ) -> None:
        _check(names, sequences, stages)
        self.names = tuple(names)
        self.sequences = tuple(sequences)
        self.stop = stop
        self._block_sequences = block_sequences
        self._seed = seed
        by_name = sorted(range(len(names)), key=lambda source: names[source])
        self._first_positions = [first for first, _ in stages]
        self._sources = [np.array([s for s in by_name if weights[s] > 0], np.int32) for _, weights in stages]
        """The sources of each stage, by name."""
        self._shares = [
            Shares([weights[s] for s in sources], block_sequences) for (_, weights), sources in zip(stages, self._sources, strict=True)
        ]
        self._slots = lru_cache(maxsize=16)(self._deal)
        self._before_stage: list[np.ndarray] = [np.zeros(len(names), np.int64)]
        for first in self._first_positions[1:]:
            self._before_stage.append(self._count(len(self._before_stage) - 1, first))

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whose sequence stands at each position, and which one.

        Args:
            positions: Positions of the run: integers [n].

        Returns:
            The sources' numbers in ``names``, int32 [n], and ranks in their orders, int64 [n]: the number of sequences of the source that
            came before. A rank goes on beyond the source's epoch, as `halcyon.data.order.Order` takes it.
        """
        positions = np.asarray(positions, np.int64)
        if positions.size and positions.min() < 0:
            raise IndexError("a position is below 0")
        rising = np.argsort(positions, kind="stable")
        numbers = np.searchsorted(self._first_positions, positions[rising], side="right") - 1
        blocks, slots = np.divmod(positions[rising] - np.array(self._first_positions)[numbers], self._block_sequences)
        sources, ranks = np.empty(positions.shape, np.int32), np.empty(positions.shape, np.int64)
        borders = np.flatnonzero((np.diff(blocks) != 0) | (np.diff(numbers) != 0)) + 1
        for begin, end in pairwise([0, *borders, positions.size] if positions.size else []):
            owners, places = self._slots(int(numbers[begin]), int(blocks[begin]))
            inside = slots[begin:end]
            sources[rising[begin:end]], ranks[rising[begin:end]] = owners[inside], places[inside]
        return sources, ranks

    def ranks(self, position: int) -> np.ndarray:
        """Sequences of each source before a position: int64 [sources]."""
        if position < 0:
            raise IndexError("a position is below 0")
        return self._count(bisect_right(self._first_positions, position) - 1, position)

    def epochs(self, position: int) -> np.ndarray:
        """Epochs of each source before a position: float64 [sources]; 0 for a source without sequences."""
        return self.ranks(position) / np.maximum(1, self.sequences)

    def limit(self) -> int | None:
        """Positions until the data ends by the stop rule; None: it never does.

        With "firstExhausted" no source would be asked for more than its sequences; with "allExhausted" each source that ever has a weight
        has given all of them, which never happens where a source's weight ends before its sequences do.
        """
        if self.stop == "restart":
            return None
        active = np.unique(np.concatenate(self._sources))
        sizes = np.array(self.sequences)[active]
        if self.stop == "firstExhausted":
            end = self._first_where(lambda counts: bool((counts[active] > sizes).any()))
            return None if end is None else end - 1
        return self._first_where(lambda counts: bool((counts[active] >= sizes).all()))

    def exhausted(self, position: int) -> list[str]:
        """Names of the sources that the positions before ``position`` ask for all of their sequences."""
        counts = self.ranks(position)
        return [name for name, count, size in zip(self.names, counts, self.sequences, strict=True) if size and count >= size]

    def _first_where(self, reached: Callable[[np.ndarray], bool]) -> int | None:
        """The first position whose counts fulfil a condition that stays fulfilled."""
        end = self._first_positions[-1] + MAX_BLOCKS * self._block_sequences - 1
        high = 1
        while high < end and not reached(self.ranks(high)):
            high = min(2 * high, end)
        if not reached(self.ranks(high)):
            return None
        return bisect_right(range(high), False, key=lambda position: reached(self.ranks(position)))

    def _count(self, number: int, position: int) -> np.ndarray:
        """Sequences of each source before a position of a stage, or before its end."""
        block, slot = divmod(position - self._first_positions[number], self._block_sequences)
        counts = self._before_stage[number].copy()
        counts[self._sources[number]] += self._shares[number](block)[0]
        if slot:
            counts += np.bincount(self._slots(number, block)[0][:slot], minlength=len(counts))
        return counts

    def _deal(self, number: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and rank of each slot of a block: int32 [B], int64 [B]."""
        sources = self._sources[number]
        before, counts = self._shares[number](block)
        hands = np.repeat(np.arange(len(sources)), counts)
        if len(sources) > 1:
            key = f"halcyon/mixture/1/{self._seed}/{self._first_positions[number]}/{block}".encode()
            hands = hands[Permutation(self._block_sequences, key)(np.arange(self._block_sequences))]
        # The first slot of a source has its lowest rank.
        by_hand = np.argsort(hands, kind="stable")
        ranks = np.empty(self._block_sequences, np.int64)
        first = self._before_stage[number][sources] + before - (np.cumsum(counts) - counts)
        ranks[by_hand] = np.arange(self._block_sequences) + np.repeat(first, counts)
        return sources[hands], ranks


def _check(names: Sequence[str], sequences: Sequence[int], stages: Sequence[tuple[int, Sequence[float]]]) -> None:
    if len(set(names)) != len(names) or len(sequences) != len(names):
        raise ValueError("a mixture needs a number of sequences for each of its names, and no name twice")
    firsts = [first for first, _ in stages]
    if not firsts or firsts[0] != 0 or any(second <= first for first, second in pairwise(firsts)):
        raise ValueError(f"the stages of a mixture begin at 0 and rise, not {firsts}")
    for first, weights in stages:
        if len(weights) != len(names) or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise ValueError(f"the mixture from position {first} needs a weight of 0 or more for each of its {len(names)} sources")
        if not any(weights):
            raise ValueError(f"the mixture from position {first} needs a weight above 0")
        for name, size, weight in zip(names, sequences, weights, strict=True):
            if weight > 0 and size < 1:
                raise ValueError(f"source {name} has a weight but no training sequences")
