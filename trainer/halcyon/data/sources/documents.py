"""The documents of a source of whole files, by name: what the data set of bytes in memory reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from halcyon.data.sources.access import Access
from halcyon.data.sources.cutting import pieces
from halcyon.data.sources.listing import list_files
from halcyon.data.sources.rows import read_piece
from halcyon.data.sources.stdlib import PREFIX
from halcyon_api.spec.sources import DataSourceSpec


@dataclass(frozen=True)
class Document:
    """One text, by name."""

    name: str
    content: bytes


def read_documents(source: DataSourceSpec) -> Iterator[Document]:
    """The documents of a source that are not empty, in order.

    Raises:
        BadConfiguration: There is nothing to read, or it cannot be read. The sentence names the field.
    """
    if source.text is None and source.stdlib is None:
        raise TypeError(f"no reader for a data source of kind {source.kind}")
    access = Access()
    for piece in pieces(source, list_files(source, access), access):
        for row in read_piece(piece, access):
            if isinstance(row.value, bytes) and row.value:
                yield Document(row.file.removeprefix(PREFIX), row.value)
