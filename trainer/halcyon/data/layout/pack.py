"""Greedy packing: each sequence takes as many whole neighbouring documents as fit.

A sequence takes documents in order until the next one does not fit or it has ``max_segments``. So its first document
determines it, and only one number per sequence is stored. For every document, a search in the cumulative sums finds the
document at which a sequence that begins here would stop, for all documents in one call. Then the chain from the first
document is followed. This is done for a million documents at a time; the sequence that is open at the end of a chunk
begins the next chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from halcyon.data.layout.spans import LayoutReport, Spans, document_spans, ragged_ranges
from halcyon.data.order.permutation import checked_places

TooLong = Literal["left", "right", "drop", "raise"]

_CHUNK_DOCUMENTS = 2**20


@dataclass(frozen=True, eq=False)
class Pack:
    """Greedy packing of whole documents.

    Attributes:
        first_documents: First document of each sequence, then the end of the last sequence: int64 [sequences + 1].
        document_ends: End of each document in the token stream: int64 [documents], a memory map if large.
        sequence_length: Positions per sequence; a sequence holds one token more.
        too_long: "left" or "right": keep that end of a document longer than a sequence; "drop": keep nothing; "raise":
            see `build`.
    """

    first_documents: np.ndarray
    document_ends: np.ndarray
    sequence_length: int
    too_long: TooLong
    spans_are_documents = False

    @property
    def sequences(self) -> int:
        """Sequences of the source, held-out ones included."""
        return len(self.first_documents) - 1

    @classmethod
    def build(cls, document_ends: np.ndarray, sequence_length: int, *, max_segments: int, too_long: TooLong) -> Pack:
        """Pack documents.

        Raises:
            ValueError: ``too_long`` is "raise" and a document is longer than a sequence.
        """
        documents = len(document_ends)
        chosen: list[np.ndarray] = []
        first, chunk = 0, _CHUNK_DOCUMENTS
        while first < documents:
            end = min(documents, first + chunk)
            tokens = _kept(_lengths(document_ends, first, end), first, sequence_length + 1, too_long)
            starts = _chain(tokens, sequence_length + 1, max_segments, closed=end == documents)
            chosen.append(first + starts[:-1])
            # If no sequence was closed, it has more documents (without tokens, or dropped) than the chunk.
            chunk = _CHUNK_DOCUMENTS if len(starts) > 1 else 2 * chunk
            first += int(starts[-1])
        chosen.append(np.array([documents], np.int64))
        return cls(np.concatenate(chosen), document_ends, sequence_length, too_long)

    @property
    def report(self) -> LayoutReport:
        """The use of the tokens; one pass over the documents."""
        capacity = self.sequence_length + 1
        tokens = used = cropped = left_out = 0
        for first in range(0, len(self.document_ends), _CHUNK_DOCUMENTS):
            lengths = _lengths(self.document_ends, first, min(len(self.document_ends), first + _CHUNK_DOCUMENTS))
            kept = _kept(lengths, first, capacity, self.too_long)
            tokens += int(lengths.sum())
            used += int(kept.sum())
            cropped += int((lengths - kept)[kept > 0].sum())
            left_out += int((kept < np.minimum(lengths, 1)).sum())
        return LayoutReport(
            self.sequences,
            used,
            cropped,
            dropped=tokens - used - cropped,
            padding=self.sequences * capacity - used,
            left_out=left_out,
            units=len(self.document_ends),
            reason="because they are longer than a sequence; raise spec.trainer.sequenceLength, or change tooLong",
        )

    def spans(self, indices: np.ndarray) -> Spans:
        """One span for each document that has tokens in the sequence."""
        indices = checked_places(indices, self.sequences)
        sequence, documents = ragged_ranges(self.first_documents[indices], self.first_documents[indices + 1])
        starts, lengths = document_spans(self.document_ends, documents)
        kept = _kept(lengths, 0, self.sequence_length + 1, self.too_long)
        if self.too_long == "right":
            starts += lengths - kept
        some = kept > 0
        return Spans(sequence[some].astype(np.int32), starts[some], kept[some].astype(np.int32))


def _lengths(document_ends: np.ndarray, first: int, end: int) -> np.ndarray:
    before = document_ends[first - 1] if first else 0
    return np.diff(np.asarray(document_ends[first:end], np.int64), prepend=before)


def _kept(lengths: np.ndarray, first: int, capacity: int, too_long: TooLong) -> np.ndarray:
    """Number of tokens kept of each document."""
    if too_long == "raise" and (longer := np.flatnonzero(lengths > capacity)).size:
        raise ValueError(
            f"document {first + longer[0]} has {lengths[longer[0]]} tokens and a sequence holds {capacity}"
        )
    return np.where(lengths <= capacity, lengths, 0) if too_long == "drop" else np.minimum(lengths, capacity)


def _chain(tokens: np.ndarray, capacity: int, max_segments: int, *, closed: bool) -> np.ndarray:
    """First document of each sequence, then the document at which the next sequence begins.

    Args:
        tokens: Kept tokens of each document.
        capacity: Tokens of a sequence.
        max_segments: A sequence has at most this number of documents; documents without tokens do not count.
        closed: No documents follow. Otherwise the last sequence is still open and begins the next chunk.
    """
    sums = np.concatenate([[0], np.cumsum(tokens)])
    some = np.concatenate([[0], np.cumsum(tokens > 0)])
    stops = np.minimum(
        np.searchsorted(sums, sums[:-1] + capacity, side="right"),
        np.searchsorted(some, some[:-1] + max_segments, side="right"),
    )
    following = (stops - 1).tolist()
    starts: list[int] = []
    document, end = 0, len(tokens)
    while document < end:
        starts.append(document)
        document = following[document]
    if not closed:
        return np.array(starts, np.int64)
    if sums[starts[-1]] == sums[-1]:  # the last sequence has only documents without tokens
        starts.pop()
    return np.array([*starts, end], np.int64)
