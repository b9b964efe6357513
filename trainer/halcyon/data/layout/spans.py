"""Spans of a token stream: what a reader has to fetch to fill sequences, in order.

Where a run trains on shorter sequences for a while, a sequence is cut in parts: part ``j`` of length ``L`` has inputs ``j L`` to
``j L + L - 1`` of the long sequence and their targets, so the parts together train on exactly the targets of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spans:
    """k spans, sorted by sequence; those of one sequence follow one another in it without a gap, from its first token on."""

    sequence: np.ndarray
    """Which of the asked-for sequences a span belongs to, 0 to n - 1: int32 [k]."""
    start: np.ndarray
    """First token, an offset in the source's token stream: int64 [k]."""
    length: np.ndarray
    """Tokens, at least 1: int32 [k]."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def offset(self) -> np.ndarray:
        """Where in its sequence each span begins: int64 [k]."""
        ends = np.cumsum(self.length, dtype=np.int64)
        begins = ends - self.length
        first = np.searchsorted(self.sequence, self.sequence, side="left")
        return begins - begins[first] if len(self) else begins

    def cut(self, parts: np.ndarray, sequence_length: int) -> Spans:
        """The spans of one part of each sequence.

        Args:
            parts: Number of the part for each sequence asked for: integers [n].
            sequence_length: Positions of a part, L; a part has L + 1 tokens.
        """
        offset = self.offset
        low = np.asarray(parts, np.int64)[self.sequence] * sequence_length
        begin = np.maximum(offset, low)
        end = np.minimum(offset + self.length, low + sequence_length + 1)
        kept = begin < end
        return Spans(self.sequence[kept], (self.start + begin - offset)[kept], (end - begin)[kept].astype(np.int32))


def split_at_documents(spans: Spans, document_ends: np.ndarray) -> tuple[Spans, np.ndarray]:
    """The same tokens as spans that each lie in one document, and the number of that document: int64 [k].

    Args:
        spans: Spans of the stream.
        document_ends: End of each document in the stream, rising: int64 [documents].
    """
    first = np.searchsorted(document_ends, spans.start, side="right")
    last = np.searchsorted(document_ends, spans.start + spans.length, side="left")
    owner, documents = ragged_ranges(first, last + 1)
    ends = np.minimum(document_ends[documents], (spans.start + spans.length)[owner])
    starts = np.maximum(np.where(documents > 0, document_ends[np.maximum(documents, 1) - 1], 0), spans.start[owner])
    kept = starts < ends  # documents without tokens lie in no span
    split = Spans(spans.sequence[owner][kept], starts[kept].astype(np.int64), (ends - starts)[kept].astype(np.int32))
    return split, documents[kept]


def ragged_ranges(first: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of the ranges ``[first[i], end[i])``, one after the other, and the number i of each one's range: int64 both."""
    first = np.asarray(first, np.int64)
    counts = np.asarray(end, np.int64) - first
    owner = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    before = np.cumsum(counts) - counts
    return owner, np.arange(len(owner), dtype=np.int64) + (first - before)[owner]


def document_spans(document_ends: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where documents begin in the stream, and how many tokens they have: int64 both."""
    ends = document_ends[documents].astype(np.int64)
    starts = np.where(documents > 0, document_ends[np.maximum(documents, 1) - 1], 0).astype(np.int64)
    return starts, ends - starts


def checked_indices(indices: np.ndarray, sequences: int) -> np.ndarray:
    """Indices as int64 [n].

    Raises:
        IndexError: An index is outside ``[0, sequences)``.
    """
    indices = np.asarray(indices, np.int64).reshape(-1)
    if indices.size and (indices.min() < 0 or indices.max() >= sequences):
        raise IndexError(f"a sequence is outside [0, {sequences})")
    return indices
