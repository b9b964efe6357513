"""The data of a run: the addresses of a step's examples (rows), and the examples. Both are pure functions of the run
document.

Five stages find a row: the batch schedule gives its position in the training order; the mixture gives the source and
the turn (a position in that source's own training order); the source's order gives a training sequence; the split gives
its number among all sequences; the layout gives the tokens. No stage depends on the number of hosts or devices, and no
state is carried from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.data.held_out import HeldOut
from halcyon.data.mixture import Mixture
from halcyon.data.order import run_queries
from halcyon.data.order.grouping import groups
from halcyon.data.source_data import NO_SOURCE, BatchRows, Source
from halcyon.tokenizer import Tokenizer


class Dataset(HeldOut):
    """A mixture of sources.

    Args:
        sources: The sources, in any order; they are identified by name.
        tokenizer: The tokenizer of all sources.
        schedule: Batch size and sequence length by step.
        mixture: The source of each position, by the same names.
        first_held_out: See `HeldOut`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        schedule: BatchSchedule,
        mixture: Mixture,
        *,
        first_held_out: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(sources, tokenizer, schedule.longest, first=first_held_out)
        self.schedule = schedule
        self.mixture = mixture
        self._limit = mixture.limit()

    @property
    def train_sequences(self) -> int:
        """Training sequences of one epoch of all sources, of the longest length."""
        return sum(source.used for source in self.sources)

    def train_rows(self, step: int) -> BatchRows:
        """The rows of the ``(step + 1)``-th optimizer step. Waits for a source that is still being built."""
        positions, parts = self.schedule.positions(step)
        inside = np.full(len(positions), True) if self._limit is None else positions < self._limit
        source = np.full(len(positions), NO_SOURCE, np.int32)
        sequence = np.zeros(len(positions), np.int64)
        source[inside], turns = self.mixture.locate(positions[inside])
        sequence[inside] = self._sequences(source[inside], turns)
        return BatchRows(source, sequence, parts, self.schedule.sequence_length(step))

    def _sequences(self, source: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """The sequence at each turn of its source: int64 [n]."""
        sequences = np.empty_like(turns)
        shares = [(self._sources[index].wait_for_turns(turns[here]), here) for index, here in groups(source)]
        ranks = run_queries([data.order.queries(turns[here]) for data, here in shares])
        for (data, here), mine in zip(shares, ranks, strict=True):
            sequences[here] = data.ranked_sequences(mine)
        return sequences

    def holds(self, step: int) -> bool:
        """Whether `train_rows` of a step returns without waiting."""
        if all(source.turns is None for source in self.sources):
            return True
        source, turns = self.mixture.locate(self.schedule.positions(step)[0])
        return all(self._sources[index].snapshot.has_turns(turns[here]) for index, here in groups(source))
