"""A piece: the unit of work that is handed to a worker process, and what it may hold.

What is cheap to cut only in order (a compressed stream of lines) is cut by the parent, and the piece carries the text itself, or, where a
line is very long, the name of a file that it was put into. What can be read at any place (whole files, row groups) the worker reads by
itself, and the piece carries no more than where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from halcyon.data.sources.address import SourceFile
from halcyon.data.sources.aside import Aside
from halcyon.data.sources.long_text import LongText

TARGET_BYTES = 4 * 2**20
"""Text of a piece, about: enough that handing it over costs little, little enough that many workers are busy to the end."""


class SourceRow(NamedTuple):
    """One row of a source."""

    file: str
    """Address of its file."""
    number: int
    """Its number in the file, counted from 0; blank lines count."""
    value: bytes | LongText | dict[str, Any]
    """The content of a text file, or the fields of a row, of which those that are too long are `LongText` too."""


@dataclass(frozen=True)
class Lines:
    """Lines of JSON."""

    data: bytes


@dataclass(frozen=True)
class LineRange:
    """Lines of JSON, by their place in a file of this machine that is not compressed."""

    file: SourceFile
    start: int
    """Offset of the first byte."""
    end: int
    """Offset after the last byte."""


@dataclass(frozen=True)
class AsideLines:
    """Lines of JSON in a file that was put aside, for they are too long to be handed over. They can be taken once."""

    aside: Aside
    start: int
    end: int


@dataclass(frozen=True)
class Files:
    """Whole files, each a row."""

    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class RowGroups:
    """SourceRow groups of a parquet file, and which of their rows."""

    file: SourceFile
    groups: tuple[int, ...]
    columns: tuple[str, ...]
    skip: int
    """Rows left out at the beginning of the first row group."""


@dataclass(frozen=True)
class Table:
    """A table as a stream of Arrow's interprocess format."""

    data: bytes


@dataclass(frozen=True)
class Piece:
    """Some rows of a source that follow one another.

    Args:
        where: The field of the run document that a sentence about them begins with.
        file: Address of the (first) file.
        first_row: Number of the first row, over all files of the source.
        rows: How many rows. Blank lines and empty documents count; they are recognised only later.
        number: Number of the first row in its file.
        content: The rows, or where they are.
    """

    where: str
    file: str
    first_row: int
    rows: int
    number: int
    content: Lines | LineRange | AsideLines | Files | RowGroups | Table

    @property
    def size_bytes(self) -> int:
        """Bytes of the text that it carries, rather than where that lies."""
        return len(self.content.data) if isinstance(self.content, Lines | Table) else 0


class FilePlace(NamedTuple):
    """Where a file begins in its source."""

    file: str
    """Its address."""
    rows_before: int
    """Rows of the files before it."""


class Wanted(NamedTuple):
    """The rows [start, end) that are wanted, numbered over all files of a source."""

    start: int
    end: int

    def within(self, first: int, rows: int) -> tuple[int, int]:
        """Which of `rows` rows from `first` on: [from, to), counted from `first`; empty where none."""
        start = min(max(self.start - first, 0), rows)
        return start, max(start, min(self.end - first, rows))
