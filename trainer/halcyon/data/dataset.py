"""The data of a run: the addresses of a step's examples (rows), and the examples. Both are pure functions of the run
document.

Five stages find a row: the batch schedule gives its position in the training order; the mixture gives the source and
the turn (a position in that source's own training order); the source's order gives a training sequence; the split gives
its number among all sequences; the layout gives the tokens. No stage depends on the number of hosts or devices, and no
state is carried from step to step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.data.examples import Examples, examples_of
from halcyon.data.mixture import Mixture
from halcyon.data.order.windows import groups
from halcyon.data.source_data import NO_SOURCE, BatchRows, Source, SourceData
from halcyon.tokenizer import Tokenizer

LAYOUT_VERSION = 3
"""Increased when the same tokens would give other sequences, or another order, than before."""


class ValidationData:
    """The held-out sequences of sources.

    Args:
        sources: The sources, in any order; they are identified by name.
        tokenizer: The tokenizer of all sources.
        sequence_length: Positions of a held-out sequence: the longest of the run.
        first: Given where the data may not depend on the total amount of text (`halcyon.data.streaming`): weights of
            the sources. An evaluation then takes the first held-out sequences of each source by weight. Default:
            sequences evenly from all text.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        sequence_length: int,
        *,
        first: Mapping[str, float] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.sequence_length = sequence_length
        """Positions of the run's longest sequences and of the held-out sequences."""
        self._sources = tuple(sources)
        self._first_weights = first

    @property
    def streams(self) -> bool:
        """Whether the data may be used while its sources still grow."""
        return self._first_weights is not None

    @property
    def sources(self) -> tuple[SourceData, ...]:
        """The sources with the text cached so far."""
        return tuple(source.snapshot for source in self._sources)

    @property
    def validation_sequences(self) -> int:
        """Held-out sequences of all sources."""
        return sum(source.split.validation for source in self.sources)

    @property
    def each(self) -> dict[str, ValidationData]:
        """A `ValidationData` of each source that has held-out sequences, or may still get some, by name."""
        return {
            source.name: ValidationData(
                [source], self.tokenizer, self.sequence_length, first={source.name: 1.0} if self.streams else None
            )
            for source in self._sources
            if (source.snapshot.split.share > 0 if self.streams else source.snapshot.split.validation)
        }

    @property
    def description(self) -> dict[str, Any]:
        """The input of the fingerprint. An error message can report its differences."""
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
            "validationSequences": source.split.validation,
            "usedSequences": source.used,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over contents, tokenizer and layout: equal fingerprints give equal examples for equal rows."""
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()

    def holds_validation(self, sequences: int) -> bool:
        """Whether an evaluation over this number of sequences can begin without waiting."""
        counts = self._first_validation(sequences)
        return all(source.snapshot.has_validation(count) for source, count in zip(self._sources, counts, strict=True))

    def validation_batches(self, batches: int | None, batch_size: int) -> list[BatchRows]:
        """The held-out rows of one evaluation, the same in every evaluation, in batches of at most ``batch_size`` rows.

        Waits for a source that is still being built.

        Args:
            batches: At most this number of batches; None: all. If they cannot hold all sequences, the sequences taken
                are evenly spaced over all sources; or, if the data may not depend on the total amount of text
                (`streams`), they are the first of each source, by the sources' weights (all of a source that has fewer
                than its share).
            batch_size: Rows of a batch.
        """
        most = self.validation_sequences if batches is None else batches * batch_size
        ranks = self._first_ranks(most) if self.streams else self._even_ranks(most)
        source = np.repeat(np.arange(len(ranks), dtype=np.int32), [len(mine) for mine in ranks])
        sequence = np.concatenate(
            [data.split.validation_sequences(mine) for data, mine in zip(self.sources, ranks, strict=True)]
        )
        rows = BatchRows(source, sequence, np.zeros(len(source), np.int32), self.sequence_length)
        return [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]

    def _even_ranks(self, sequences: int) -> list[np.ndarray]:
        """Ranks among the held-out sequences of each source, evenly spaced over the held-out sequences of all
        sources.
        """
        ends = np.cumsum([source.split.validation for source in self.sources], dtype=np.int64)
        validation = int(ends[-1])
        taken = min(sequences, validation)
        ranks = np.arange(taken, dtype=np.int64) * validation // max(1, taken)
        begins = ends - np.diff(ends, prepend=0)
        borders = np.searchsorted(ranks, ends[:-1])
        return [mine - begin for mine, begin in zip(np.split(ranks, borders), begins, strict=True)]

    def _first_ranks(self, sequences: int) -> list[np.ndarray]:
        """Ranks among the held-out sequences of each source: its share, beginning with the first."""
        counts = self._first_validation(sequences)
        held = [
            source.wait_for_validation(count).split.validation
            for source, count in zip(self._sources, counts, strict=True)
        ]
        return [np.arange(min(pair), dtype=np.int64) for pair in zip(counts, held, strict=True)]

    def _first_validation(self, sequences: int) -> list[int]:
        """Number of held-out sequences that each source should give, by weight only: the sizes of the sources have no
        influence.
        """
        weights = self._first_weights or {}
        given = {
            source.name: Fraction(weights.get(source.name, 0)) for source in self.sources if source.split.share > 0
        }
        names = sorted(given)
        ends = [int(sequences * end / (sum(given.values()) or 1)) for end in accumulate(given[name] for name in names)]
        counts = {name: end - begin for name, begin, end in zip(names, [0, *ends], ends, strict=False)}
        return [counts.get(source.name, 0) for source in self._sources]

    def examples(self, rows: BatchRows) -> Examples:
        """The examples of rows from `train_rows` or `validation_batches`."""
        shape = len(rows), rows.length + 1
        windows, documents = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        lengths, weights = np.zeros(len(rows), np.int64), np.ones(shape, np.float32)
        beside: dict[str, np.ndarray] = {}
        classes = np.full(len(rows), -1)
        for index, data in enumerate(self.sources):
            if data.beside is not None and data.beside[0] not in beside:
                beside[data.beside[0]] = np.zeros(len(rows), data.beside[1])
            here = np.flatnonzero(rows.source == index)
            if not len(here):
                continue
            part = None if rows.length == self.sequence_length else rows.part[here]
            mine = data.windows(rows.sequence[here], part, rows.length)
            windows[here], lengths[here], documents[here] = mine.tokens, mine.lengths, mine.documents
            if mine.weights is not None:
                weights[here] = mine.weights
            if mine.classes is not None:
                classes[here] = mine.classes
            if data.beside is not None:
                beside[data.beside[0]][here] = mine.beside
        found = examples_of(windows, lengths, weights, self.tokenizer.pad_id, documents)
        found.label(lengths, classes)
        return replace(found, **beside)


class Dataset(ValidationData):
    """A mixture of sources.

    Args:
        sources: The sources, in any order; they are identified by name.
        tokenizer: The tokenizer of all sources.
        schedule: Batch size and sequence length by step.
        mixture: The source of each position, by the same names.
        first_validation: See `ValidationData`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        schedule: BatchSchedule,
        mixture: Mixture,
        *,
        first_validation: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(sources, tokenizer, schedule.longest, first=first_validation)
        self.schedule = schedule
        self.mixture = mixture
        self._limit = mixture.limit()

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
        for index, here in groups(source):
            sequences[here] = self._sources[index].wait_for_turns(turns[here]).training_sequences(turns[here])
        return sequences

    def holds(self, step: int) -> bool:
        """Whether `train_rows` of a step returns without waiting."""
        if all(source.turns is None for source in self.sources):
            return True
        source, turns = self.mixture.locate(self.schedule.positions(step)[0])
        return all(self._sources[index].snapshot.has_turns(turns[here]) for index, here in groups(source))


class NoData(Dataset):
    """The data of a run whose batches the caller of `halcyon.train` gives: no text.

    Args:
        tokenizer: The document's tokenizer.
        schedule: Batch size and sequence length by step.
    """

    def __init__(self, tokenizer: Tokenizer, schedule: BatchSchedule) -> None:
        ValidationData.__init__(self, (), tokenizer, schedule.longest)
        self.schedule = schedule
