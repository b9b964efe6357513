"""The data of a run: which examples a step takes, and the examples themselves. Both are pure functions of the run document.

A step's rows come from the schedule (which positions of the training order), the mixture (which source, and which of its turns), the
source's own order (which of its training sequences), the split (which of all its sequences) and its layout (which tokens). No stage knows
how many hosts or devices there are, and nothing is carried from step to step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from halcyon.data.examples import Examples, examples_of
from halcyon.data.layout import Layout
from halcyon.data.mixture import Mixture
from halcyon.data.order import Order, answered
from halcyon.data.order.grouping import groups
from halcyon.data.schedule import Schedule
from halcyon.data.split import Split, spread
from halcyon.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer

LAYOUT_VERSION = 3
"""Raised when the same tokens would give other sequences, or another order, than before."""
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
    """So many turns of the training order it can tell; None: all, for the source is whole."""

    @property
    def now(self) -> SourceData:
        """See `Source`."""
        return self

    def holds(self, turns: np.ndarray) -> bool:
        """Whether it can tell these turns of the training order."""
        return self.turns is None or not turns.size or int(turns.max()) < self.turns

    def holds_out(self, sequences: int) -> bool:
        """Whether it holds out so many sequences, or is whole."""
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
        """The source with so many held-out sequences, or all that there will be; may wait for them."""
        ...


@dataclass(frozen=True)
class Rows:
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

    def __getitem__(self, rows: np.ndarray | slice) -> Rows:
        return Rows(self.source[rows], self.sequence[rows], self.part[rows], self.length)


class Dataset:
    """Several sources, mixed.

    Args:
        sources: The sources, in any order; their names key everything.
        tokenizer: The tokenizer of all of them.
        schedule: Batch size and sequence length by step.
        mixture: Which source is at which position. Its names are those of the sources.
        first_held_out: Given where nothing may depend on how much text there is (`halcyon.data.streaming`): weights by which an evaluation
            takes the first held-out sequences of the sources, rather than some from everywhere.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        schedule: Schedule,
        mixture: Mixture,
        *,
        first_held_out: Mapping[str, float] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.schedule = schedule
        self.mixture = mixture
        self._sources = tuple(sources)
        self._evaluation_weights = first_held_out
        self._limit = mixture.limit()

    @property
    def streams(self) -> bool:
        """Whether it may be used while its sources still grow."""
        return self._evaluation_weights is not None

    @property
    def sources(self) -> tuple[SourceData, ...]:
        """The sources as far as they are there."""
        return tuple(source.now for source in self._sources)

    @property
    def sequence_length(self) -> int:
        """Positions of the run's longest sequences, and of those that are held out."""
        return self.schedule.longest

    @property
    def train_sequences(self) -> int:
        """Training sequences of one epoch of each source, of the longest length."""
        return sum(source.used for source in self.sources)

    @property
    def validation_sequences(self) -> int:
        """Held-out sequences of all sources."""
        return sum(source.split.held_out for source in self.sources)

    @property
    def description(self) -> dict[str, Any]:
        """What the fingerprint is taken over, for a sentence that says what differs."""
        return {
            "layoutVersion": LAYOUT_VERSION,
            "tokenizerSha256": self.tokenizer.fingerprint,
            "sequenceLength": self.sequence_length,
            "sources": {source.name: {**source.description, **self._counts(source)} for source in self.sources},
        }

    def _counts(self, source: SourceData) -> dict[str, int]:
        if self.streams:
            return {}
        return {
            "trainSequences": source.split.training,
            "validationSequences": source.split.held_out,
            "usedSequences": source.used,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over contents, tokenizer and layout: equal fingerprints give equal examples for equal rows."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()

    def train_rows(self, step: int) -> Rows:
        """The examples of the ``(step + 1)``-th optimizer step. Waits for a source that grows."""
        positions, parts = self.schedule.positions(step)
        inside = np.full(len(positions), True) if self._limit is None else positions < self._limit
        source = np.full(len(positions), NO_SOURCE, np.int32)
        sequence = np.zeros(len(positions), np.int64)
        source[inside], turns = self.mixture.locate(positions[inside])
        sequence[inside] = self._sequences(source[inside], turns)
        return Rows(source, sequence, parts, self.schedule.sequence_length(step))

    def _sequences(self, source: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """The sequences at turns of their sources: int64 [n]."""
        sequences = np.empty_like(turns)
        shares = [(self._sources[index].holding(turns[here]), here) for index, here in groups(source)]
        ranks = answered([data.order.asking(turns[here]) for data, here in shares])
        for (data, here), mine in zip(shares, ranks, strict=True):
            sequences[here] = data.ranked_sequences(mine)
        return sequences

    def holds(self, step: int) -> bool:
        """Whether the examples of a step can be told without waiting."""
        if all(source.turns is None for source in self.sources):
            return True
        source, turns = self.mixture.locate(self.schedule.positions(step)[0])
        return all(self._sources[index].now.holds(turns[here]) for index, here in groups(source))

    def holds_validation(self, sequences: int) -> bool:
        """Whether an evaluation over so many sequences can be told without waiting."""
        counts = self._first_held_out(sequences)
        return all(source.now.holds_out(count) for source, count in zip(self._sources, counts, strict=True))

    def validation_batches(self, batches: int, batch_size: int) -> list[Rows]:
        """The held-out examples of one evaluation, the same every time: each of at most ``batch_size``. Waits for a source that grows.

        Where ``batches`` do not hold all of them, those taken lie evenly over all sources; or, where nothing may depend on how much text
        there is, they are the first of each source, by the sources' weights, and fewer from one that has not so many.
        """
        ranks = self._first_ranks(batches * batch_size) if self.streams else self._even_ranks(batches * batch_size)
        source = np.repeat(np.arange(len(ranks), dtype=np.int32), [len(mine) for mine in ranks])
        sequence = np.concatenate([data.split.validation_sequences(mine) for data, mine in zip(self.sources, ranks, strict=True)])
        rows = Rows(source, sequence, np.zeros(len(source), np.int32), self.sequence_length)
        return [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]

    def _even_ranks(self, sequences: int) -> list[np.ndarray]:
        """Ranks among the held-out sequences of each source, evenly over all of them together."""
        ends = np.cumsum([source.split.held_out for source in self.sources], dtype=np.int64)
        held_out = int(ends[-1])
        taken = min(sequences, held_out)
        ranks = np.arange(taken, dtype=np.int64) * held_out // max(1, taken)
        begins = ends - np.diff(ends, prepend=0)
        borders = np.searchsorted(ranks, ends[:-1])
        return [mine - begin for mine, begin in zip(np.split(ranks, borders), begins, strict=True)]

    def _first_ranks(self, sequences: int) -> list[np.ndarray]:
        """Ranks among the held-out sequences of each source: its share, from the first on."""
        counts = self._first_held_out(sequences)
        held = [source.holding_out(count).split.held_out for source, count in zip(self._sources, counts, strict=True)]
        return [np.arange(min(pair), dtype=np.int64) for pair in zip(counts, held, strict=True)]

    def _first_held_out(self, sequences: int) -> list[int]:
        """How many of the first held-out sequences each source is to give: by weights, and whatever the size of any."""
        weights = self._evaluation_weights or {}
        given = {source.name: Fraction(weights.get(source.name, 0)) for source in self.sources if source.split.share > 0}
        names = sorted(given)
        ends = [int(sequences * end / (sum(given.values()) or 1)) for end in accumulate(given[name] for name in names)]
        counts = {name: end - begin for name, begin, end in zip(names, [0, *ends], ends, strict=False)}
        return [counts.get(source.name, 0) for source in self._sources]

    def examples(self, rows: Rows) -> Examples:
        """The examples at `train_rows` or `validation_batches`."""
        width = rows.length + 1
        whole = rows.length == self.sequence_length
        token_type = np.min_scalar_type(self.tokenizer.vocab_size - 1)
        windows = np.zeros((len(rows), width), token_type)
        lengths = np.zeros(len(rows), np.int64)
        weights: np.ndarray | None = None
        for index, data in enumerate(self.sources):
            here = np.flatnonzero(rows.source == index)
            if not len(here):
                continue
            part = None if whole else rows.part[here]
            found, found_lengths, found_weights = data.windows(rows.sequence[here], part, rows.length)
            if len(here) == len(rows):
                return examples_of(found, found_lengths, found_weights, self.tokenizer)
            windows[here], lengths[here] = found, found_lengths
            if found_weights is not None:
                weights = np.ones(windows.shape, np.float32) if weights is None else weights
                weights[here] = found_weights
        return examples_of(windows, lengths, weights, self.tokenizer)


def _rows(flat: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """Rows [n, width] of values that follow one another, the shorter ones padded with 0."""
    if len(flat) == len(lengths) * width:
        return flat.reshape(len(lengths), width)
    rows = np.zeros((len(lengths), width), flat.dtype)
    rows[np.arange(width) < lengths[:, None]] = flat
    return rows
