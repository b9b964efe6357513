"""From the rows of a step back to the documents they come from: what a person asks after a loss spike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from halcyon.data.cache.ledger import Ledger
from halcyon.data.cache.reader import TokenReader
from halcyon.data.dataset import NO_SOURCE, Dataset, Rows
from halcyon.data.layout import split_at_documents
from halcyon.data.layout.spans import document_spans


@dataclass(frozen=True)
class Excerpt:
    """A part of one document in one row."""

    document: int
    """Number of the document in its source."""
    file: str
    """Address of its file; empty where the source has none."""
    row: int
    """Its row in that file."""
    offset: int
    """First position of the excerpt in the row."""
    begin: int
    """Its first token, counted in the document."""
    tokens: int
    """Tokens of the excerpt."""


class Origins:
    """Documents of one source by the tokens of its stream."""

    def __init__(self, reader: TokenReader, ledger: Ledger) -> None:
        self._reader = reader
        self._files = [entry.uri for entry in ledger.files]

    @cached_property
    def _ends(self) -> np.ndarray:
        return self._reader.document_ends()

    @cached_property
    def _origins(self) -> np.ndarray:
        return self._reader.origins()

    def excerpts(self, dataset: Dataset, rows: Rows) -> list[Excerpt]:
        """The documents in one row of this source."""
        source = dataset.sources[int(rows.source[0])]
        spans = source.layout.spans(rows.sequence)
        if rows.length != dataset.sequence_length:
            spans = spans.cut(rows.part, rows.length)
        pieces, documents = split_at_documents(spans, self._ends)
        found: list[Excerpt] = []
        begins = pieces.start - document_spans(self._ends, documents)[0]
        for number, offset, begin, length in zip(
            *(each.tolist() for each in (documents, pieces.offset, begins, pieces.length)), strict=True
        ):
            file, row = (int(value) for value in self._origins[number])
            found.append(Excerpt(number, self._files[file] if file >= 0 else "", row, offset, begin, length))
        return found


def trace(dataset: Dataset, rows: Rows, ledgers: Mapping[str, Ledger]) -> list[list[Excerpt]]:
    """The documents in each row; none for a row past the end of the data."""
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
            raise TypeError("only the documents of a token cache can be told")
        known = origins.setdefault(source.name, Origins(reader, ledgers[source.name]))
        found.append(known.excerpts(dataset, rows[number : number + 1]))
    return found


def rows_of_host(batch_size: int, microbatches: int, data_parallelism: int, tensor: int, devices_per_host: int, host: int) -> np.ndarray:
    """Rows of a batch that a host reads: those of its devices' shards, in every microbatch. Hosts are counted as processes are.

    Args:
        batch_size: Sequences of the step.
        microbatches: Parts of the batch.
        data_parallelism: Shards of a microbatch.
        tensor: Devices that share a shard.
        devices_per_host: Devices of a host.
        host: Number of the host.
    """
    rows = np.arange(batch_size).reshape(microbatches, data_parallelism, -1)
    shards = np.arange(host * devices_per_host, (host + 1) * devices_per_host) // tensor
    return np.sort(rows[:, np.unique(shards)].ravel())
