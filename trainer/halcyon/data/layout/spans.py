"""Spans of a token stream: the tokens that a reader has to fetch, in order, to fill sequences.

While a run trains on shorter sequences, a sequence is cut into parts: part ``j`` of length ``L`` has inputs ``j L`` to
``j L + L - 1`` of the long sequence and their targets. So the parts together train on exactly the targets of the long
sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from halcyon.data.order.permutation import checked_places
from halcyon_api.counting import counted, percent

_CHUNK_TOKENS = 2**22


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
    starts = np.maximum(document_spans(document_ends, documents)[0], spans.start[owner])
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


def arrays_of(layout: Any) -> dict[str, np.ndarray]:
    """The arrays that a layout has beside the ends of the documents: its packer makes it of them again."""
    return {
        name: value for name, value in vars(layout).items() if isinstance(value, np.ndarray) and name != "document_ends"
    }


@dataclass(frozen=True, eq=False)
class OneEach:
    """A layout with one document in each sequence.

    Attributes:
        kept: Numbers of the documents that are in a sequence, rising: int64 [sequences].
        document_ends: End of each document in the token stream: int64 [documents].
        sequence_length: Positions of a sequence.
    """

    kept: np.ndarray
    document_ends: np.ndarray
    sequence_length: int
    spans_are_documents = True

    @property
    def sequences(self) -> int:
        """Sequences of the source, held-out ones included."""
        return len(self.kept)

    def documents(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of the documents of sequences, their beginnings in the stream, and their lengths: int64 [n] each."""
        numbers = self.kept[checked_places(indices, self.sequences)]
        return numbers, *document_spans(self.document_ends, numbers)


@dataclass(frozen=True)
class LayoutReport:
    """Use of a source's tokens: each token is used, cropped or dropped."""

    sequences: int
    """Sequences, held-out ones included."""
    used: int
    """Tokens in sequences."""
    cropped: int
    """Tokens cut off documents whose other tokens are in a sequence."""
    dropped: int
    """Tokens of documents that are in no sequence, and of a remainder that fills no sequence."""
    padding: int
    """Token places of sequences that hold no token."""
    left_out: int = 0
    """Units that are in no sequence."""
    units: int = 0
    """All units: documents, or what else a sequence takes as a whole."""
    noun: str = "document"
    """What a unit is."""
    reason: str = ""
    """Why units are left out, and the fix."""

    @classmethod
    def of_units(cls, tokens: np.ndarray, kept: np.ndarray, length: int, noun: str, reason: str) -> LayoutReport:
        """The report of a source whose sequences have one unit each.

        Args:
            tokens: Tokens of each unit: int64 [units].
            kept: Numbers of the units that are in a sequence: int64 [sequences].
            length: Positions of a sequence.
            noun: See the class.
            reason: See the class.
        """
        count, units, used, every = len(kept), len(tokens), int(tokens[kept].sum()), int(tokens.sum())
        return cls(count, used, 0, every - used, count * (length + 1) - used, units - count, units, noun, reason)

    @property
    def cropped_share(self) -> float:
        """Cropped tokens as a share of all tokens."""
        return self.cropped / max(1, self.used + self.cropped + self.dropped)

    @property
    def dropped_share(self) -> float:
        """Dropped tokens as a share of all tokens."""
        return self.dropped / max(1, self.used + self.cropped + self.dropped)

    @property
    def loss(self) -> str | None:
        """What of the source is in no sequence, in a few words. None: nothing, or the rest of the last document."""
        clauses: list[str] = []
        if self.left_out:
            of_all = f"{self.left_out:,} of {counted(self.units, self.noun)}"
            of_tokens = f"{counted(self.dropped, 'token')}, {percent(self.dropped_share, 1)} of all"
            clauses.append(f"{of_all} left out ({of_tokens}), {self.reason}")
        if self.cropped:
            clauses.append(f"{counted(self.cropped, 'token')} cropped, {percent(self.cropped_share, 1)} of all")
        return "; ".join(clauses) or None

    @property
    def padded_share(self) -> float:
        """Padding as a share of all token places."""
        return self.padding / max(1, self.used + self.padding)


class Weights(Protocol):
    """The loss weights of a token stream."""

    def gather_weights(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray | None:
        """The loss weights of the tokens of spans, concatenated; None: all are 1."""
        ...


class Tokens(Weights, Protocol):
    """A token stream."""

    def gather(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The tokens of spans, concatenated."""
        ...

    def gather_begins(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Whether a document ends right before each of the same tokens, within its span: bool [tokens]."""
        ...


def first_counted(weights: Weights, document_ends: np.ndarray) -> np.ndarray:
    """The index, in its document, of the first token with a loss weight above 0; the document's length if it has none:
    int64 [documents].

    The first token of a document is never a target, so the least index is 1. One pass over the stream, some megabytes
    at a time.

    Args:
        weights: The weights of the stream.
        document_ends: End of each document in the stream, rising: int64 [documents].
    """
    ends = np.asarray(document_ends, np.int64)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    counted = np.empty_like(ends)
    first = 0
    while first < len(ends):
        end = max(first + 1, int(np.searchsorted(ends, starts[first] + _CHUNK_TOKENS, side="right")))
        counted[first:end] = _of_chunk(weights, starts[first:end], ends[first:end])
        first = end
    return counted


def _of_chunk(weights: Weights, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    begin, lengths = starts[0], ends - starts
    known = weights.gather_weights(np.array([begin]), np.array([ends[-1] - begin])) if ends[-1] > begin else np.empty(0)
    if known is None:
        return np.minimum(lengths // 2, 1)  # a text of one token counts, too
    hits = np.flatnonzero(known > 0) + begin
    places = np.searchsorted(hits, starts + 1)
    counted = np.append(hits, ends[-1])[places] - starts
    return np.minimum(counted, lengths)
