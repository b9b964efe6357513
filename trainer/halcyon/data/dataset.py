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
from typing import Any, Protocol

import numpy as np

from halcyon.data.examples import Examples, examples_of
from halcyon.data.layout import Layout
from halcyon.data.mixture import Mixture
from halcyon.data.order import Order, answered
from halcyon.data.order.grouping import groups
from halcyon.data.schedule import Schedule
from halcyon.data.split import Split, spread
from halcyon.tokenizer import Tokenizer

LAYOUT_VERSION = 2
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
    """Counts and hashes of its contents."""

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
    """

    def __init__(self, sources: Sequence[SourceData], tokenizer: Tokenizer, schedule: Schedule, mixture: Mixture) -> None:
        self.sources = tuple(sources)
        self.tokenizer = tokenizer
        self.schedule = schedule
        self.mixture = mixture
        self._limit = mixture.limit()
        self._validation_ends = np.cumsum([source.split.held_out for source in self.sources], dtype=np.int64)

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
        return int(self._validation_ends[-1])

    @property
    def description(self) -> dict[str, Any]:
        """What the fingerprint is taken over, for a sentence that says what differs."""
        return {
            "layoutVersion": LAYOUT_VERSION,
            "tokenizerSha256": self.tokenizer.fingerprint,
            "sequenceLength": self.sequence_length,
            "sources": {
                source.name: {
                    **source.description,
                    "trainSequences": source.split.training,
                    "validationSequences": source.split.held_out,
                    "usedSequences": source.used,
                }
                for source in self.sources
            },
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over contents, tokenizer and layout: equal fingerprints give equal examples for equal rows."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()

    def train_rows(self, step: int) -> Rows:
        """The examples of the ``(step + 1)``-th optimizer step."""
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
        shares = list(groups(source))
        ranks = answered([self.sources[index].order.asking(turns[here]) for index, here in shares])
        for (index, here), mine in zip(shares, ranks, strict=True):
            sequences[here] = self.sources[index].ranked_sequences(mine)
        return sequences

    def validation_batches(self, batches: int, batch_size: int) -> list[Rows]:
        """The held-out examples of one evaluation, the same every time: each of at most ``batch_size``.

        Where ``batches`` do not hold all of them, those taken lie evenly over all sources.
        """
        taken = min(batches * batch_size, self.validation_sequences)
        ranks = np.arange(taken, dtype=np.int64) * self.validation_sequences // max(1, taken)
        source = np.searchsorted(self._validation_ends, ranks, side="right").astype(np.int32)
        sequence = np.empty_like(ranks)
        for index, data in enumerate(self.sources):
            here = source == index
            first = int(self._validation_ends[index]) - data.split.held_out
            sequence[here] = data.split.validation_sequences(ranks[here] - first)
        rows = Rows(source, sequence, np.zeros(taken, np.int32), self.sequence_length)
        return [rows[first : first + batch_size] for first in range(0, taken, batch_size)]

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
