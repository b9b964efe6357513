"""Traces the rows of a step back to their documents, for example after a loss spike."""

from collections.abc import Iterator, Mapping
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


def trace(dataset: Dataset, rows: BatchRows, ledgers: Mapping[str, Ledger]) -> list[list[Excerpt]]:
    """The excerpts in each row; an empty list for a row past the end of the data. Only the shards that contain their
    documents are read.
    """
    return [
        [] if rows.source[number] == NO_SOURCE else list(_excerpts_of_row(dataset, rows[number : number + 1], ledgers))
        for number in range(len(rows))
    ]


def _excerpts_of_row(dataset: Dataset, row: BatchRows, ledgers: Mapping[str, Ledger]) -> Iterator[Excerpt]:
    source = dataset.sources[int(row.source[0])]
    reader, files = source.tokens, ledgers[source.name].files
    if not isinstance(reader, TokenReader):
        raise TypeError("only the documents of a token cache can be listed")
    spans = source.layout.spans(row.sequence)
    if row.length != dataset.sequence_length:
        spans = spans.cut(row.part, row.length)
    for start, length, offset in zip(spans.start.tolist(), spans.length.tolist(), spans.offset.tolist(), strict=True):
        first, ends = reader.documents_around(start, start + length)
        span = Spans(np.zeros(1, np.int32), np.array([start]), np.array([length], np.int32))
        pieces, numbers = split_at_documents(span, ends)
        begins = pieces.start - document_spans(ends, numbers)[0]
        origins = reader.origins_of(first + numbers)
        for number, (file, place), inside, begin, tokens in zip(
            *(each.tolist() for each in (numbers, origins, pieces.offset, begins, pieces.length)), strict=True
        ):
            yield Excerpt(first + number, files[file].uri if file >= 0 else "", place, offset + inside, begin, tokens)
