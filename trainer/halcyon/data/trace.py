"""Traces the rows of a step back to their documents, for example after a loss spike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from halcyon.data.cache.ledger import Ledger
from halcyon.data.cache.reader import TokenReader
from halcyon.data.dataset import Dataset
from halcyon.data.layout.spans import Spans, document_spans, split_at_documents
from halcyon.data.source_data import NO_SOURCE, BatchRows


@dataclass(frozen=True)
class Excerpt:
    """A part of one document in one row."""

    document: int
    """Number of the document in its source."""
    file: str
    """Address of its file; empty where the source has none."""
    row: int
    """Row of the document in that file."""
    offset: int
    """First position of the excerpt in the row."""
    begin: int
    """First token of the excerpt, counted in the document."""
    tokens: int
    """Tokens of the excerpt."""


class Origins:
    """Finds the documents of spans of one source's token stream. Only the shards that contain them are read."""

    def __init__(self, reader: TokenReader, ledger: Ledger) -> None:
        self._reader = reader
        self._files = [entry.uri for entry in ledger.files]

    def excerpts(self, dataset: Dataset, rows: BatchRows) -> list[Excerpt]:
        """The documents in one row of this source."""
        source = dataset.sources[int(rows.source[0])]
        spans = source.layout.spans(rows.sequence)
        if rows.length != dataset.sequence_length:
            spans = spans.cut(rows.part, rows.length)
        found: list[Excerpt] = []
        for start, length, offset in zip(
            spans.start.tolist(), spans.length.tolist(), spans.offset.tolist(), strict=True
        ):
            found += self._excerpts(start, length, offset)
        return found

    def _excerpts(self, start: int, length: int, offset: int) -> list[Excerpt]:
        """The documents in one span of the stream. The span begins at an offset of its row."""
        first, ends = self._reader.documents_around(start, start + length)
        span = Spans(np.zeros(1, np.int32), np.array([start]), np.array([length], np.int32))
        pieces, numbers = split_at_documents(span, ends)
        begins = pieces.start - document_spans(ends, numbers)[0]
        origins = self._reader.origins_of(first + numbers)
        return [
            Excerpt(first + number, self._files[file] if file >= 0 else "", row, offset + inside, begin, tokens)
            for number, (file, row), inside, begin, tokens in zip(
                *(each.tolist() for each in (numbers, origins, pieces.offset, begins, pieces.length)), strict=True
            )
        ]


def trace(dataset: Dataset, rows: BatchRows, ledgers: Mapping[str, Ledger]) -> list[list[Excerpt]]:
    """The excerpts in each row; an empty list for a row past the end of the data."""
    origins: dict[str, Origins] = {}
    found: list[list[Excerpt]] = []
    for number in range(len(rows)):
        index = int(rows.source[number])
        if index == NO_SOURCE:
            found.append([])
            continue
        source = dataset.sources[index]
        reader = source.tokens
        if not isinstance(reader, TokenReader):
            raise TypeError("only the documents of a token cache can be listed")
        known = origins.setdefault(source.name, Origins(reader, ledgers[source.name]))
        found.append(known.excerpts(dataset, rows[number : number + 1]))
    return found


def rows_of_host(
    batch_size: int, microbatches: int, data_parallelism: int, sharing: int, devices_per_host: int, host: int
) -> np.ndarray:
    """Rows of a batch that a host reads: the rows of its devices' shards, in every microbatch.

    Args:
        batch_size: Sequences of the step.
        microbatches: Microbatches of the step.
        data_parallelism: Shards of a microbatch.
        sharing: Devices that share the rows of a shard.
        devices_per_host: Devices per host.
        host: Number of the host, which is the number of its process.
    """
    rows = np.arange(batch_size).reshape(microbatches, data_parallelism, -1)
    shards = np.arange(host * devices_per_host, (host + 1) * devices_per_host) // sharing
    return np.sort(rows[:, np.unique(shards)].ravel())
