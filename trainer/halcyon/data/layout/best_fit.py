"""Full sequences that each begin with a document: best-fit packing with cropping.

A buffer holds a number of next documents. A sequence takes the longest document of the buffer that still fits, again and again; when none
fits, the shortest one is cropped to what is missing and its rest is thrown away. So no place is padded and every sequence begins where a
document begins, at the price of cropped tokens, whose share is in the report. The rest when the documents run out fills no sequence and
is dropped.

Only the order in which documents are taken has to be kept: where a document is cropped follows from the lengths of those before it.

Source: the dataloader of nanochat (Karpathy, 2025). Documents of one length are taken oldest first, so the outcome is the same everywhere.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np

from halcyon.data.layout.report import LayoutReport
from halcyon.data.layout.spans import Spans, checked_indices, document_spans, ragged_ranges

_CHUNK_DOCUMENTS = 2**16


class BestFit:
    """Best-fit packing.

    Args:
        documents: The documents in the order in which sequences take them: unsigned integers [pieces].
        first_pieces: First piece of each sequence, and at last the end of the last one: int64 [sequences + 1].
        document_ends: End of each document in the token stream: int64 [documents], a memory map where it is large.
        sequence_length: Positions of a sequence; it holds one token more.
    """

    def __init__(self, documents: np.ndarray, first_pieces: np.ndarray, document_ends: np.ndarray, sequence_length: int) -> None:
        self.sequence_length = sequence_length
        self.sequences = len(first_pieces) - 1
        self._documents = documents
        self._first = first_pieces
        self._ends = document_ends

    @classmethod
    def build(cls, document_ends: np.ndarray, sequence_length: int, *, buffer: int) -> BestFit:
        """Pack documents, ``buffer`` of them in sight at a time."""
        taken = array("I" if len(document_ends) <= 2**32 else "Q")
        first_pieces = array("q", [0])
        coming = _lengths(document_ends)
        shelf = _Shelf()
        while True:
            missing = sequence_length + 1
            while missing:
                while len(shelf) < buffer and (document := next(coming, None)):
                    shelf.put(*document)
                length, number = shelf.take(missing)
                if not length:
                    break
                taken.append(number)
                missing -= min(length, missing)
            if missing:
                break
            first_pieces.append(len(taken))
        pieces = np.frombuffer(taken, np.dtype(taken.typecode))[: first_pieces[-1]]
        return cls(pieces, np.frombuffer(first_pieces, np.int64), document_ends, sequence_length)

    @property
    def report(self) -> LayoutReport:
        """What became of the tokens; one pass over the documents."""
        taken = 0
        for first in range(0, len(self._documents), _CHUNK_DOCUMENTS):
            taken += int(document_spans(self._ends, self._documents[first : first + _CHUNK_DOCUMENTS].astype(np.int64))[1].sum())
        used = self.sequences * (self.sequence_length + 1)
        tokens = int(self._ends[-1]) if len(self._ends) else 0
        return LayoutReport(self.sequences, used, taken - used, tokens - taken, padding=0)

    def spans(self, indices: np.ndarray) -> Spans:
        """One span for each document of a sequence; the last one may be cropped."""
        indices = checked_indices(indices, self.sequences)
        sequence, pieces = ragged_ranges(self._first[indices], self._first[indices + 1])
        starts, lengths = document_spans(self._ends, self._documents[pieces].astype(np.int64))
        # All but the last piece of a sequence are whole, so what the last one lacks is what the sequence would have too many.
        sums = np.cumsum(lengths)
        last = np.cumsum(self._first[indices + 1] - self._first[indices]) - 1
        excess = np.diff(sums[last], prepend=0) - (self.sequence_length + 1)
        lengths[last] -= excess
        return Spans(sequence.astype(np.int32), starts, lengths.astype(np.int32))

    def to_arrays(self) -> Mapping[str, np.ndarray]:
        """What a cache keeps, as the constructor takes it."""
        return {"documents": self._documents, "first_pieces": self._first}


class _Shelf:
    """Documents sorted by length. A queue for each length that is there keeps large buffers as fast as small ones."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._queues: dict[int, deque[int]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, length: int, number: int) -> None:
        queue = self._queues.get(length)
        if queue is None:
            insort(self._lengths, length)
            self._queues[length] = deque((number,))
        else:
            queue.append(number)
        self._size += 1

    def take(self, missing: int) -> tuple[int, int]:
        """Length and number of the longest document of at most ``missing`` tokens, else of the shortest; (0, 0): there is none."""
        if not self._size:
            return 0, 0
        place = max(0, bisect_right(self._lengths, missing) - 1)
        length = self._lengths[place]
        queue = self._queues[length]
        number = queue.popleft()
        if not queue:
            del self._lengths[place], self._queues[length]
        self._size -= 1
        return length, number


def _lengths(document_ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """Length and number of each document that has tokens."""
    before = 0
    for first in range(0, len(document_ends), _CHUNK_DOCUMENTS):
        ends = np.asarray(document_ends[first : first + _CHUNK_DOCUMENTS], np.int64)
        lengths = np.diff(ends, prepend=before).tolist()
        before = int(ends[-1])
        yield from ((length, number) for number, length in enumerate(lengths, first) if length)
