"""Maps a position of training to a source and to the rank of a sequence in that source.

Positions are cut into blocks. In every block each source has its share, exact to one sequence (`shares`), and a keyed
permutation assigns the slots of the block to the sources. The sequences of a source come in the order of its ranks. So
the mixture decides when a source is used, and only the source's order (`halcyon.data.order`) decides which sequence it
gives: adding, removing or renaming a source does not change the orders of the others. A source of weight 0 has no
influence. Sources are sorted by name first, so their order in the document has no influence either.

Weights may change at any position; blocks are counted from there. The last block of a stage may be cut short; then only
its first slots are used. Ranks continue across stages, so no sequence comes twice in an epoch.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.data.order.permutation import Permutation, checked_positions
from halcyon.data.shares import MAX_BLOCKS, Shares
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.data import DataSpec

Stop = Literal["restart", "firstExhausted", "allExhausted"]


class Mixture:
    """A mixture of sources.

    Args:
        names: Names of the sources.
        sequences: Training sequences of an epoch of each source.
        stages: Pairs of a first position and the weights from there on, one weight for each name; the first stage
            begins at 0.
        block_sequences: Sequences of a block, at most 2**16.
        seed: Seed of the run.
        stop: The end of the data: never ("restart"), or when the first ("firstExhausted") or the last source
            ("allExhausted") has given all its sequences.

    The names differ, the stages rise, each has a weight above 0, and a source with such a weight has sequences: the
    contract and `build_mixture` see to it.
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
        self.names = tuple(names)
        self.sequences = tuple(sequences)
        self.stop = stop
        self._block_sequences = block_sequences
        self._seed = seed
        by_name = sorted(range(len(names)), key=lambda source: names[source])
        self._first_positions = [first for first, _ in stages]
        self._sources = [np.array([s for s in by_name if weights[s] > 0], np.int32) for _, weights in stages]
        """The sources with a weight above 0 in each stage, sorted by name."""
        self._shares = [
            Shares([weights[s] for s in sources], block_sequences)
            for (_, weights), sources in zip(stages, self._sources, strict=True)
        ]
        self._slots = lru_cache(maxsize=16)(self._assign_slots)
        self._before_stage: list[np.ndarray] = [np.zeros(len(names), np.int64)]
        for first in self._first_positions[1:]:
            self._before_stage.append(self._count(len(self._before_stage) - 1, first))

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source and the rank of the sequence at each position.

        Args:
            positions: Positions of the run: integers [n].

        Returns:
            The indices of the sources in ``names``, int32 [n], and the ranks in their orders, int64 [n]. A rank is the
            number of earlier sequences of the source. Ranks continue past the first epoch, as
            `halcyon.data.order.Order` takes them.

        Raises:
            IndexError: A position is below 0.
        """
        positions = checked_positions(positions)
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

    def position_after(self, source: int, epochs: int) -> int | None:
        """Number of positions until a source has given all its sequences this number of times; None: it never does."""
        wanted = epochs * self.sequences[source]
        return self._first_where(lambda counts: bool(counts[source] >= wanted)) if wanted else None

    def limit(self) -> int | None:
        """Number of positions until the stop rule ends the data; None: it never does.

        With "firstExhausted" the data ends before any source would repeat a sequence. With "allExhausted" it ends when
        each source that has a weight above 0 in any stage has given all its sequences. That never happens if a source's
        weight becomes 0 before that.
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
        """Names of the sources whose sequences are all used at least once before ``position``."""
        counts = self.ranks(position)
        return [
            name for name, count, size in zip(self.names, counts, self.sequences, strict=True) if size and count >= size
        ]

    def _first_where(self, reached: Callable[[np.ndarray], bool]) -> int | None:
        """The first position whose counts fulfil a monotonic condition (once true, always true); None: no position
        does.
        """
        end = self._first_positions[-1] + MAX_BLOCKS * self._block_sequences - 1
        high = 1
        while high < end and not reached(self.ranks(high)):
            high = min(2 * high, end)
        if not reached(self.ranks(high)):
            return None
        return bisect_right(range(high), False, key=lambda position: reached(self.ranks(position)))

    def _count(self, number: int, position: int) -> np.ndarray:
        """Sequences of each source before a position of a stage, or before the end of the stage: int64 [sources]."""
        block, slot = divmod(position - self._first_positions[number], self._block_sequences)
        counts = self._before_stage[number].copy()
        counts[self._sources[number]] += self._shares[number](block)[0]
        if slot:
            counts += np.bincount(self._slots(number, block)[0][:slot], minlength=len(counts))
        return counts

    def _assign_slots(self, number: int, block: int) -> tuple[np.ndarray, np.ndarray]:
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


def build_mixture(data: DataSpec, sequences: Mapping[str, int], schedule: BatchSchedule, *, seed: int) -> Mixture:
    """The mixture of a run.

    Args:
        data: ``spec.data``.
        sequences: Training sequences of an epoch, by source, of the schedule's longest length.
        schedule: Maps the steps at which weights change to positions.
        seed: Seed of the run.

    Raises:
        BadConfiguration: A source with a weight above 0 has no training sequences, or no source has any. The message
            names the field.
    """
    names = [source.name for source in data.sources]
    sizes = [sequences[name] for name in names]
    if not any(sizes):
        raise BadConfiguration(
            "spec.data.sources: no source has sequences to train on; give more text, or hold out less of it"
        )
    weights = [
        float(size) if source.weight is None else source.weight
        for source, size in zip(data.sources, sizes, strict=True)
    ]
    stages = [(0, weights)]
    for entry in data.mixture.schedule:
        given = {share.source: share.weight for share in entry.weights}
        begins = max(0, schedule.positions_before(entry.from_step))
        if begins == stages[-1][0]:  # the run begins with these weights
            stages.pop()
        stages.append((begins, [given.get(name, 0.0) for name in names]))
    for number, (_, shares) in enumerate(stages):
        for name, size, weight in zip(names, sizes, shares, strict=True):
            if weight > 0 and not size:
                field = f"mixture.schedule[{number - 1}].weights[{name}]" if number else f"sources[{name}].weight"
                raise BadConfiguration(
                    f"spec.data.{field}: the source has no sequences to train on; set its weight to 0, or give it more "
                    "text"
                )
    mixture = data.mixture
    return Mixture(names, sizes, stages, block_sequences=mixture.block_sequences, seed=seed, stop=mixture.stop)


def stop_problem(mixture: Mixture, schedule: BatchSchedule, *, pad_last: bool) -> str | None:
    """An error message if the mixture's stop rule ends the data before the run's last step; else None."""
    limit = mixture.limit()
    if limit is None or (steps := schedule.steps_within(limit, partial=pad_last)) >= schedule.steps:
        return None
    names = ", ".join(mixture.exhausted(limit))
    return (
        f"spec.trainer.steps: {schedule.steps} steps need more than the {limit} sequences after which "
        f"spec.data.mixture.stop: {mixture.stop} ends the data (exhausted: {names}); set steps to {steps} or less, or "
        "stop to restart"
    )


def rehearsed_sequences(sequences: int, *, run_tokens: int, simulate_tokens: int) -> int:
    """Number of a source's sequences that a run over ``run_tokens`` tokens uses to rehearse a run over
    ``simulate_tokens`` tokens.

    The used sequences are then seen in as many epochs as the longer run sees all sequences. `halcyon.data.split.spread`
    chooses them.
    """
    if run_tokens >= simulate_tokens or not sequences:
        return sequences
    return max(1, (2 * sequences * run_tokens + simulate_tokens) // (2 * simulate_tokens))
