"""Best-fit packing with cropping: full sequences that each begin with a document.

A buffer holds a number of the next documents. A sequence repeatedly takes the longest document of the buffer that still
fits. When none fits, the shortest one is cropped to the free space and the rest of it is discarded. So there is no
padding, and every sequence begins at the beginning of a document. The cost is the cropped tokens; the report gives
their share. Documents left at the end that do not fill a sequence are dropped.

Only the order in which documents are taken is stored: the crop of a document follows from the lengths of the documents
before it.

Source: the dataloader of nanochat (Karpathy, 2025). Documents of equal length are taken oldest first, so the result is
the same everywhere.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from halcyon.data.layout.spans import LayoutReport, Spans, document_spans, ragged_ranges
from halcyon.data.order.permutation import checked_places

_CHUNK_DOCUMENTS = 2**16


class Buffer:
    """The buffer: documents sorted by length.

    One queue for each existing length keeps large buffers as fast as small ones.
    """

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._queues: dict[int, deque[int]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, length: int, number: int) -> None:
        """Add a document."""
        if length not in self._queues:
            insort(self._lengths, length)
            self._queues[length] = deque()
        self._queues[length].append(number)
        self._size += 1

    def take(self, missing: int, *, crops: bool) -> tuple[int, int]:
        """Length and number of the longest document of at most ``missing`` tokens; (0, 0) if there is none. If
        ``crops``, the shortest document is taken where none fits.
        """
        place = bisect_right(self._lengths, missing) - 1
        if not self._size or (place < 0 and not crops):
            return 0, 0
        place = max(0, place)
        length = self._lengths[place]
        queue = self._queues[length]
        number = queue.popleft()
        if not queue:
            del self._lengths[place], self._queues[length]
        self._size -= 1
        return length, number


@dataclass(frozen=True, eq=False)
class BestFit:
    """Best-fit packing.

    Attributes:
        documents: Numbers of the documents in the order in which sequences take them: unsigned integers [pieces].
        first_pieces: First piece of each sequence, then the end of the last sequence: int64 [sequences + 1].
        document_ends: End of each document in the token stream: int64 [documents], a memory map if large.
        sequence_length: Positions per sequence; a sequence holds one token more.
    """

    documents: np.ndarray
    first_pieces: np.ndarray
    document_ends: np.ndarray
    sequence_length: int
    spans_are_documents = False

    @property
    def sequences(self) -> int:
        """Sequences of the source, held-out ones included."""
        return len(self.first_pieces) - 1

    @classmethod
    def build(cls, document_ends: np.ndarray, sequence_length: int, *, buffer: int) -> BestFit:
        """Pack documents with a buffer of ``buffer`` documents."""
        taken = array("I" if len(document_ends) <= 2**32 else "Q")
        first_pieces = array("q", [0])
        coming = _lengths(document_ends)
        shelf = Buffer()
        while True:
            missing = sequence_length + 1
            while missing:
                while len(shelf) < buffer and (document := next(coming, None)):
                    shelf.put(*document)
                length, number = shelf.take(missing, crops=True)
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
        """The use of the tokens; one pass over the documents."""
        taken = 0
        for first in range(0, len(self.documents), _CHUNK_DOCUMENTS):
            numbers = self.documents[first : first + _CHUNK_DOCUMENTS].astype(np.int64)
            taken += int(document_spans(self.document_ends, numbers)[1].sum())
        used = self.sequences * (self.sequence_length + 1)
        tokens = int(self.document_ends[-1]) if len(self.document_ends) else 0
        units = len(self.document_ends)
        return LayoutReport(
            self.sequences,
            used,
            cropped=taken - used,
            dropped=tokens - taken,
            padding=0,
            left_out=units - len(self.documents),
            units=units,
            reason="because they fill no whole sequence at the end of the source",
        )

    def spans(self, indices: np.ndarray) -> Spans:
        """One span for each document of a sequence; the last one may be cropped."""
        indices = checked_places(indices, self.sequences)
        sequence, pieces = ragged_ranges(self.first_pieces[indices], self.first_pieces[indices + 1])
        starts, lengths = document_spans(self.document_ends, self.documents[pieces].astype(np.int64))
        # Only the last piece of a sequence is cropped, by the number of tokens that the sequence would have too many.
        sums = np.cumsum(lengths)
        last = np.cumsum(self.first_pieces[indices + 1] - self.first_pieces[indices]) - 1
        excess = np.diff(sums[last], prepend=0) - (self.sequence_length + 1)
        lengths[last] -= excess
        return Spans(sequence.astype(np.int32), starts, lengths.astype(np.int32))


def _lengths(document_ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """Length and number of each document with at least one token."""
    before = 0
    for first in range(0, len(document_ends), _CHUNK_DOCUMENTS):
        ends = np.asarray(document_ends[first : first + _CHUNK_DOCUMENTS], np.int64)
        lengths = np.diff(ends, prepend=before).tolist()
        before = int(ends[-1])
        yield from ((length, number) for number, length in enumerate(lengths, first) if length)
