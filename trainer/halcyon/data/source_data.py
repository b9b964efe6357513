"""The parts of the data of a run: a source, opened, and the addresses of examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from halcyon.data.layout import Layout
from halcyon.data.order import Order
from halcyon.data.split import Split, spread
from halcyon.errors import BadConfiguration

NO_SOURCE = -1
"""Source of a row past the end of the data: a sequence of weight 0."""


class Tokens(Protocol):
    """The token stream of a source."""

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The tokens of spans, one after the other."""
        ...

    def gather_weights(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        """The loss weights of the same tokens; None where all count."""
        ...


@dataclass(frozen=True)
class SourceData:
    """A source, opened."""

    name: str
    tokens: Tokens
    layout: Layout
    split: Split
    order: Order
    """Of the training sequences that are used."""
    used: int
    """Training sequences that are used: all, but where a longer run is rehearsed."""
    description: Mapping[str, Any]
    """What its contents are known by; the same for a source that grows as for the whole one."""
    turns: int | None = None
    """The number of turns of the training order that are known; None: all, because the source is whole."""

    @property
    def now(self) -> SourceData:
        """See `Source`."""
        return self

    def holds(self, turns: np.ndarray) -> bool:
        """Whether it can tell these turns of the training order."""
        return self.turns is None or not turns.size or int(turns.max()) < self.turns

    def holds_out(self, sequences: int) -> bool:
        """Whether it holds out this number of sequences, or is whole."""
        return self.turns is None or self.split.held_out >= sequences

    def holding(self, turns: np.ndarray) -> SourceData:
        """See `Source`.

        Raises:
            BadConfiguration: It is not whole, and these turns are in what is missing.
        """
        if not self.holds(turns):
            raise BadConfiguration(
                f"spec.data.sources[{self.name}]: its token cache is not whole yet and tells the first {self.turns} sequences of the "
                f"training order, but number {int(turns.max())} is asked for; ask for an earlier step, or build it with halcyon data build"
            )
        return self

    def holding_out(self, sequences: int) -> SourceData:
        """See `Source`. Of a source that is not whole what there is."""
        del sequences
        return self

    def training_sequences(self, turns: np.ndarray) -> np.ndarray:
        """The sequences at turns of the endless training order: int64, same shape."""
        return self.ranked_sequences(self.order(turns))

    def ranked_sequences(self, ranks: np.ndarray) -> np.ndarray:
        """The sequences at ranks, 0 to ``used - 1``, among those that are used: int64, same shape."""
        return self.split.training_sequences(spread(ranks, chosen=self.used, total=self.split.training))

    def windows(self, sequences: np.ndarray, parts: np.ndarray | None, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Token windows [n, length + 1] of (parts of) sequences, their lengths [n], and the tokens' loss weights."""
        spans = self.layout.spans(sequences)
        if parts is not None:
            spans = spans.cut(parts, length)
        lengths = np.bincount(spans.sequence, spans.length, len(sequences)).astype(np.int64)
        flat = self.tokens.gather(spans.start, spans.length)
        flat_weights = self.tokens.gather_weights(spans.start, spans.length)
        return _rows(flat, lengths, length + 1), lengths, None if flat_weights is None else _rows(flat_weights, lengths, length + 1)


class Source(Protocol):
    """A source that is whole, or grows while it is used."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def now(self) -> SourceData:
        """As far as it is there."""
        ...

    def holding(self, turns: np.ndarray) -> SourceData:
        """The source with these turns of the training order; may wait for them."""
        ...

    def holding_out(self, sequences: int) -> SourceData:
        """The source with this number of held-out sequences, or with all of them; may wait for them."""
        ...


@dataclass(frozen=True)
class BatchRows:
    """Addresses of examples: n of them."""

    source: np.ndarray
    """Index of the source, or `NO_SOURCE`: int32 [n]."""
    sequence: np.ndarray
    """Number of the sequence among all of its source: int64 [n]."""
    part: np.ndarray
    """Which part of that sequence, where the step's sequences are shorter than the longest: int32 [n]."""
    length: int
    """Positions of a sequence of this step."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: np.ndarray | slice) -> BatchRows:
        return BatchRows(self.source[rows], self.sequence[rows], self.part[rows], self.length)


def _rows(flat: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """BatchRows [n, width] of values that follow one another, the shorter ones padded with 0."""
    if len(flat) == len(lengths) * width:
        return flat.reshape(len(lengths), width)
    rows = np.zeros((len(lengths), width), flat.dtype)
    rows[np.arange(width) < lengths[:, None]] = flat
    return rows
