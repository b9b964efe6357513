"""The parts of a run's data: an opened source, and the addresses of examples."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from halcyon.data.cache.background import CacheProgress
from halcyon.data.cache.ledger import Ledger
from halcyon.data.layout.beside import Beside
from halcyon.data.layout.packer import Layout
from halcyon.data.layout.prompts import Labelled
from halcyon.data.layout.spans import Spans, Tokens
from halcyon.data.order.epochs import Order
from halcyon.data.split import Split, spread
from halcyon.host.errors import BadConfiguration

NO_SOURCE = -1
"""Source of a row past the end of the data; its sequence has weight 0."""


class Windows(NamedTuple):
    """The tokens of n sequences of ``length`` positions."""

    tokens: np.ndarray
    """Token ids [n, length + 1]; 0 past the end of a shorter sequence."""
    lengths: np.ndarray
    """Tokens of each sequence: int64 [n]."""
    weights: np.ndarray | None
    """Loss weights [n, length + 1]; None: all are 1."""
    documents: np.ndarray
    """Number of the document of each token, rising along a sequence; padding is one more: int32 [n, length + 1]."""
    beside: np.ndarray | None = None
    """What stands beside each text; see `halcyon.data.layout.beside`. None: nothing."""
    classes: np.ndarray | None = None
    """Number of the label of each sequence: int64 [n]; None: they have no labels."""


@dataclass(frozen=True)
class SourceData:
    """An opened source."""

    name: str
    tokens: Tokens
    layout: Layout
    split: Split
    order: Order
    """Order of the used training sequences."""
    used: int
    """Number of training sequences that are used: all, except in a rehearsal of a longer run (`simulateTokens`)."""
    description: Mapping[str, Any]
    """Identifies its contents; the same while the source grows as when it is complete."""
    begin_id: int | None = None
    """The token that begins each document and stands nowhere else.

    None: there is none, so the ends of the documents are read.
    """
    turns: int | None = None
    """Number of turns (positions in the source's training order) that are known; None: all, because the source is
    complete.
    """

    @property
    def snapshot(self) -> SourceData:
        """Itself; a `GrowingSource` has several."""
        return self

    @property
    def beside(self) -> tuple[str, np.dtype] | None:
        """The array of `Examples` with what stands beside texts, and the type of one text's part; None: nothing."""
        return (self.layout.reader.name, self.layout.reader.dtype) if isinstance(self.layout, Beside) else None

    def has_turns(self, turns: np.ndarray) -> bool:
        """Whether the sequences at these turns of the training order are known."""
        return self.turns is None or not turns.size or int(turns.max()) < self.turns

    def has_validation(self, sequences: int) -> bool:
        """Whether it holds out this number of sequences, or is complete."""
        return self.turns is None or self.split.validation >= sequences

    def wait_for_turns(self, turns: np.ndarray) -> SourceData:
        """Itself, with these turns of its training order.

        Raises:
            BadConfiguration: The source is not complete, and one of these turns is not known.
        """
        if not self.has_turns(turns):
            raise BadConfiguration(
                f"spec.data.sources[{self.name}]: its token cache is not complete: it has the first {self.turns} "
                f"sequences of the training order, but sequence {int(turns.max())} is needed; choose an earlier step, "
                "or complete the cache with halcyon data build"
            )
        return self

    def wait_for_validation(self, sequences: int) -> SourceData:
        """Itself. An incomplete source may hold out fewer."""
        del sequences
        return self

    def training_sequences(self, turns: np.ndarray) -> np.ndarray:
        """The sequences at turns of the endless training order: int64, same shape."""
        ranks = spread(self.order(turns), chosen=self.used, total=self.split.training)
        return self.split.training_sequences(ranks)

    def windows(self, sequences: np.ndarray, parts: np.ndarray | None, length: int) -> Windows:
        """The tokens of sequences or of their parts."""
        spans = self.layout.spans(sequences)
        if parts is not None:
            spans = spans.cut(parts, length)
        lengths = np.bincount(spans.sequence, spans.length, len(sequences)).astype(np.int64)
        flat = self.tokens.gather(spans.start, spans.length)
        flat_weights, beside = self.tokens.gather_weights(spans.start, spans.length), None
        if isinstance(self.layout, Beside):
            beside = self.layout.read(self.tokens, sequences)
            flat_weights = self.layout.counted(sequences) if flat_weights is None else flat_weights
        return Windows(
            _rows(flat, lengths, length + 1),
            lengths,
            None if flat_weights is None else _rows(flat_weights, lengths, length + 1),
            _numbered(self._begins(flat, spans), lengths, length + 1),
            beside,
            self.layout.classes[sequences] if isinstance(self.layout, Labelled) else None,
        )

    def _begins(self, flat: np.ndarray, spans: Spans) -> np.ndarray:
        """Whether each of the tokens of spans begins a document, or is the first of its span: bool [tokens]."""
        if self.begin_id is not None and not self.layout.spans_are_documents:
            return flat == self.begin_id
        ends = np.cumsum(spans.length, dtype=np.int64)
        begins = (
            np.zeros(len(flat), bool)
            if self.layout.spans_are_documents
            else self.tokens.gather_begins(spans.start, spans.length)
        )
        begins[ends - spans.length] = True
        return begins


@dataclass(frozen=True)
class BatchRows:
    """Addresses of n examples."""

    source: np.ndarray
    """Index of the source, or `NO_SOURCE`: int32 [n]."""
    sequence: np.ndarray
    """Number of the sequence among all sequences of its source: int64 [n]."""
    part: np.ndarray
    """Number of the part of that sequence, where the step's sequences are shorter than the longest: int32 [n]."""
    length: int
    """Positions per sequence of this step."""

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: np.ndarray | slice) -> BatchRows:
        return BatchRows(self.source[rows], self.sequence[rows], self.part[rows], self.length)

    def padded_to(self, count: int) -> BatchRows:
        """These rows, and rows without a source after them, `count` in total."""
        missing = (0, count - len(self))
        source = np.pad(self.source, missing, constant_values=NO_SOURCE)
        return BatchRows(source, np.pad(self.sequence, missing), np.pad(self.part, missing), self.length)


def _numbered(begins: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """Number of the document of each token in its row, and one more for padding: int32 [n, width]."""
    rows = np.cumsum(_rows(begins, lengths, width), axis=1, dtype=np.int32) - np.int32(1)
    return np.where(np.arange(width) < lengths[:, None], rows, rows[:, -1:] + np.int32(1))


def _rows(flat: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """Splits concatenated values into rows [n, width] and pads shorter rows with 0."""
    if len(flat) == len(lengths) * width:
        return flat.reshape(len(lengths), width)
    rows = np.zeros((len(lengths), width), flat.dtype)
    rows[np.arange(width) < lengths[:, None]] = flat
    return rows


class GrowingSource:
    """A source whose token cache grows while the run trains on it.

    It holds the newest snapshot, which is an ordinary `SourceData` of the text cached so far, and makes a new one when
    the cache has grown. All snapshots agree on the text that they share: a shard never changes, the held-out sequences
    among the first sequences stay the same, and a position is used only when its shuffle window is full. So a batch
    does not depend on the snapshot that it was made from.

    Args:
        name: Name of the source.
        progress: Provides the ledger of the source.
        snapshot: Makes the source from a ledger.
    """

    def __init__(self, name: str, progress: CacheProgress, snapshot: Callable[[Ledger], SourceData]) -> None:
        self.name = name
        self._progress = progress
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._newest: tuple[Ledger, SourceData] | None = None

    @property
    def snapshot(self) -> SourceData:
        """The source with the text cached so far."""
        ledger = self._progress.caches.ledgers[self.name]
        with self._lock:
            if (
                self._newest is None
                or len(ledger.shards) > len(self._newest[0].shards)
                or ledger.finished != self._newest[0].finished
            ):
                self._newest = ledger, self._snapshot(ledger)
            return self._newest[1]

    def wait_for_turns(self, turns: np.ndarray) -> SourceData:
        """Wait until the source has these turns of its training order, and return it.

        Raises:
            Stopped: The process ends.
            Exception: The error that ended the build.
        """
        self._progress.wait_for(lambda: self.snapshot.has_turns(turns))
        return self.snapshot

    def wait_for_validation(self, sequences: int) -> SourceData:
        """Wait until the source holds out this number of sequences, or is complete, and return it.

        Raises as `wait_for_turns` does.
        """
        self._progress.wait_for(lambda: self.snapshot.has_validation(sequences))
        return self.snapshot


Source = SourceData | GrowingSource
"""A source that is complete, or grows while it is used."""
