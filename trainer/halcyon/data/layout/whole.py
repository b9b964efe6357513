"""Best-fit packing of whole units, with padding: a unit is a conversation, the two conversations of a pair, or a query
with its texts.

A buffer holds a number of the next units. A row repeatedly takes the longest unit of the buffer that still fits; when
none fits, the rest of the row is padding. So a unit that fits into a row is never cut, none is left out at the end, and
every row has a token that counts in the loss:

- A unit is left out if one of its conversations has no token that counts.
- A conversation longer than a row keeps the row's tokens from its beginning. If none of these counts, the kept part
  begins later: half a row before the first token that counts.
- The conversations of a pair longer than a row keep their beginnings: each has at least half of the row, and the rest
  of what the other one does not need; texts of a query likewise. The pair is left out if none of the kept tokens of
  one conversation counts.

Source of the packing: the dataloader of nanochat (Karpathy, 2025). Units of equal length are taken oldest first, so the
result is the same everywhere.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from halcyon.data.layout.best_fit import Buffer
from halcyon.data.layout.spans import (
    LayoutReport,
    Spans,
    Weights,
    document_spans,
    first_counted,
    ragged_ranges,
)
from halcyon.data.order.permutation import checked_places

_CHUNK_UNITS = 2**16


@dataclass(frozen=True)
class WholePacker:
    """Packs the conversations of an objective whole. See `halcyon.data.layout.packer.DocumentPacker`.

    Attributes:
        conversations: Conversations of a unit, which is in one row: 1, 2 for a pair, or a query and its texts.
        units_per_row: Largest number of units in a row; None: no limit.
        buffer: Number of units to choose the best fit from.
    """

    conversations: int
    units_per_row: int | None
    buffer: int
    empty = (
        "no row would have a token that counts in the loss; give conversations in which the assistant answers, or a "
        "longer spec.trainer.sequenceLength"
    )

    @property
    def key(self) -> list[Any]:
        """See `DocumentPacker`."""
        return [1, "whole", asdict(self)]

    def build(self, document_ends: np.ndarray, weights: Weights, sequence_length: int) -> WholeUnits:
        """See `DocumentPacker`."""
        capacity = sequence_length + 1
        counted = first_counted(weights, document_ends)
        coming = _placed(document_ends, counted, self.conversations, capacity)
        units, begins = array("I" if len(document_ends) <= 2**32 else "Q"), array("q")
        first_pieces = array("q", [0])
        begin_of: dict[int, int] = {}
        buffer = Buffer()
        while True:
            missing, room = capacity, self.units_per_row
            while room is None or room > 0:
                while len(buffer) < self.buffer and (unit := next(coming, None)):
                    length, number, begin = unit
                    buffer.put(length, number)
                    if begin:
                        begin_of[number] = begin
                length, number = buffer.take(missing, crops=False)
                if not length:
                    break
                units.append(number)
                begins.append(begin_of.pop(number, 0))
                missing -= length
                room = None if room is None else room - 1
            if missing == capacity:
                break
            first_pieces.append(len(units))
        return WholeUnits(
            np.frombuffer(units, np.dtype(units.typecode)),
            np.frombuffer(begins, np.int64),
            np.frombuffer(first_pieces, np.int64),
            document_ends,
            sequence_length,
            self.conversations,
        )

    @property
    def make(self) -> Callable[..., WholeUnits]:
        """See `DocumentPacker`."""
        return partial(WholeUnits, conversations=self.conversations)


@dataclass(frozen=True, eq=False)
class WholeUnits:
    """Best-fit packing of whole units.

    Attributes:
        units: Numbers of the units in the order in which rows take them: unsigned integers [pieces].
        begins: First kept token of each of these units' conversations, counted in the conversation: int64 [pieces].
        first_pieces: First piece of each row, then the end of the last row: int64 [rows + 1].
        document_ends: End of each document in the token stream: int64 [documents], a memory map if large.
        sequence_length: Positions per row; a row holds one token more.
        conversations: Documents of a unit, which are neighbours in the stream.
    """

    units: np.ndarray
    begins: np.ndarray
    first_pieces: np.ndarray
    document_ends: np.ndarray
    sequence_length: int
    conversations: int
    spans_are_documents = True

    @property
    def sequences(self) -> int:
        """Sequences of the source, held-out ones included."""
        return len(self.first_pieces) - 1

    @property
    def report(self) -> LayoutReport:
        """The use of the tokens; one pass over the units."""
        capacity = self.sequence_length + 1
        taken = used = 0
        for first in range(0, len(self.units), _CHUNK_UNITS):
            _, lengths = self._documents(np.arange(first, min(len(self.units), first + _CHUNK_UNITS)))
            taken += int(lengths.sum())
            used += int(_kept(lengths, capacity).sum())
        tokens = int(self.document_ends[-1]) if len(self.document_ends) else 0
        units = len(self.document_ends) // self.conversations
        which = "none of their tokens" if self.conversations == 1 else "none of the tokens of one of their answers"
        return LayoutReport(
            self.sequences,
            used,
            cropped=taken - used,
            dropped=tokens - taken,
            padding=self.sequences * capacity - used,
            left_out=units - len(self.units),
            units=units,
            noun="conversation" if self.conversations == 1 else "pair",
            reason=f"because {which} in the row counts in the loss; raise spec.trainer.sequenceLength to keep more",
        )

    def spans(self, indices: np.ndarray) -> Spans:
        """One span for each conversation of each row."""
        indices = checked_places(indices, self.sequences)
        row, pieces = ragged_ranges(self.first_pieces[indices], self.first_pieces[indices + 1])
        starts, lengths = self._documents(pieces)
        kept = _kept(lengths, self.sequence_length + 1)
        starts += self.begins[pieces][:, None]
        return Spans(np.repeat(row, self.conversations).astype(np.int32), starts.ravel(), kept.ravel().astype(np.int32))

    def _documents(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Beginnings in the stream and lengths of the conversations of pieces: int64 [pieces, conversations]."""
        numbers = self.units[pieces].astype(np.int64)[:, None] * self.conversations + np.arange(self.conversations)
        starts, lengths = document_spans(self.document_ends, numbers.ravel())
        return starts.reshape(numbers.shape), lengths.reshape(numbers.shape)


def _placed(
    document_ends: np.ndarray, counted: np.ndarray, conversations: int, capacity: int
) -> Iterator[tuple[int, int, int]]:
    """Kept length, number and first kept token of each unit that is not left out."""
    total = len(document_ends) // conversations
    for first in range(0, total, _CHUNK_UNITS):
        end = min(total, first + _CHUNK_UNITS)
        numbers = np.arange(first * conversations, end * conversations)
        lengths = document_spans(document_ends, numbers)[1].reshape(-1, conversations)
        hits = counted[numbers].reshape(-1, conversations)
        kept = _kept(lengths, capacity)
        begins = np.zeros(end - first, np.int64)
        if conversations == 1:
            # A kept part that begins later: half a row of context before the first token that counts, and never past
            # the end.
            late = np.minimum(hits[:, 0] - capacity // 2, lengths[:, 0] - capacity)
            begins = np.where((hits[:, 0] >= kept[:, 0]) & (hits[:, 0] < lengths[:, 0]), late, 0)
        counts = ((hits < lengths) & (hits < kept + begins[:, None])).all(axis=1)
        some = np.flatnonzero(counts)
        yield from zip(kept.sum(axis=1)[some].tolist(), (first + some).tolist(), begins[some].tolist(), strict=True)


def _kept(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Number of tokens kept of each conversation of a unit: int64 [units, conversations]."""
    kept, room = lengths.copy(), np.full(len(lengths), capacity)
    for at in range(count := lengths.shape[1]):
        rest = room - lengths[:, at + 1 :].sum(axis=1)
        kept[:, at] = np.minimum(lengths[:, at], np.maximum(rest, room // (count - at)))
        room -= kept[:, at]
    return kept
