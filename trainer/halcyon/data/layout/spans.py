"""Spans of a token stream: the tokens that a reader has to fetch, in order, to fill sequences.

While a run trains on shorter sequences, a sequence is cut into parts: part ``j`` of length ``L`` has inputs ``j L`` to
``j L + L - 1`` of the long sequence and their targets. So the parts together train on exactly the targets of the long
sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spans:
    """k spans, sorted by sequence.

    The spans of one sequence fill it in order, without gaps, from its first token on.
    """

    sequence: np.ndarray
    """Index of the span's sequence among the n requested sequences, 0 to n - 1: int32 [k]."""
    start: np.ndarray
    """First token, an offset in the source's token stream: int64 [k]."""
    length: np.ndarray
    """Number of tokens, at least 1: int32 [k]."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def offset(self) -> np.ndarray:
        """Offset of each span in its sequence: int64 [k]."""
        ends = np.cumsum(self.length, dtype=np.int64)
        begins = ends - self.length
        first = np.searchsorted(self.sequence, self.sequence, side="left")
        return begins - begins[first] if len(self) else begins

    def cut(self, parts: np.ndarray, sequence_length: int) -> Spans:
        """The spans of one part of each sequence.

        Args:
            parts: Number of the part for each requested sequence: integers [n].
            sequence_length: Positions of a part, L; a part has L + 1 tokens.
        """
        offset = self.offset
        low = np.asarray(parts, np.int64)[self.sequence] * sequence_length
        begin = np.maximum(offset, low)
        end = np.minimum(offset + self.length, low + sequence_length + 1)
        kept = begin < end
        return Spans(self.sequence[kept], (self.start + begin - offset)[kept], (end - begin)[kept].astype(np.int32))


def split_at_documents(spans: Spans, document_ends: np.ndarray) -> tuple[Spans, np.ndarray]:
    """Split spans so that each lies in one document. Returns them and the number of each one's document: int64 [k].

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
    """For the concatenated ranges ``[first[i], end[i])``: the range's index i of each number, and the numbers; both
    int64.
    """
    first = np.asarray(first, np.int64)
    counts = np.asarray(end, np.int64) - first
    owner = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    before = np.cumsum(counts) - counts
    return owner, np.arange(len(owner), dtype=np.int64) + (first - before)[owner]


def document_spans(document_ends: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in the stream at which documents begin, and their numbers of tokens; both int64."""
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
