"""A piece, which is the unit of work of a worker process, and the kinds of its content.

The parent cuts content that must be read in order (a compressed stream of lines). The piece then contains the text. The
worker reads content that can be read at any
offset (whole files, row groups). The piece then contains only its location.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from halcyon.data.sources.access import SourceFile

TARGET_BYTES = 4 * 2**20
"""Approximate bytes of text per piece: large enough that sending it costs little, small enough that all workers are
busy until the end.
"""


@dataclass(frozen=True)
class LeftOut:
    """In place of a row that is left out: a binary file, or a file or a row that cannot be read."""

    kind: Literal["binary", "file", "row"]
    problem: str
    """One sentence."""


class SourceRow(NamedTuple):
    """One row of a source."""

    file: str
    """Address of its file."""
    number: int
    """Number of the row in the file, counted from 0; blank lines count."""
    value: bytes | dict[str, Any] | LeftOut
    """The content of a text file, or the fields of a row, of which those that cannot be used are `BadValue`. `LeftOut`:
    the row makes no document.
    """


@dataclass(frozen=True)
class JsonLines:
    """Each line is a row."""

    wanted: tuple[str, ...] | None = None
    """The fields that the format reads, in which a value that cannot be used is an error; None: the rows decide."""


@dataclass(frozen=True)
class JsonArray:
    """The rows are the elements of one JSON array."""

    wanted: tuple[str, ...] | None = None
    """As in `JsonLines`."""


@dataclass(frozen=True)
class Delimited:
    """Each record of a CSV or TSV file is a row."""

    delimiter: Literal[",", "\t"]
    columns: tuple[str, ...]
    """Names of the columns, from the header."""
    wanted: tuple[str, ...]
    """The columns that the format reads; others are not in the rows."""


Rows = JsonLines | JsonArray | Delimited
"""How rows lie in a text."""


@dataclass(frozen=True)
class Lines:
    """The text of rows."""

    data: bytes
    rows: Rows = JsonLines()


@dataclass(frozen=True)
class LineRange:
    """The text of rows, by its byte range in a local file that is not compressed."""

    file: SourceFile
    start: int
    """Offset of the first byte."""
    end: int
    """Offset after the last byte."""
    rows: Rows = JsonLines()


@dataclass(frozen=True)
class Files:
    """Whole files, each of which is a row."""

    files: tuple[SourceFile, ...]
    named: frozenset[str] = frozenset()
    """Addresses of those that the document names. Another one is left out if it is binary."""


@dataclass(frozen=True)
class BadFile:
    """The rest of a file that cannot be cut, as one row."""

    problem: str
    """One sentence."""


@dataclass(frozen=True)
class RowGroups:
    """Row groups of a parquet file; the piece's rows follow the first ``skip`` rows."""

    file: SourceFile
    groups: tuple[int, ...]
    columns: tuple[str, ...]
    skip: int
    """Rows skipped at the beginning of the first row group."""


@dataclass(frozen=True)
class Table:
    """A table as a stream of Arrow's interprocess format."""

    data: bytes


Content = Lines | LineRange | Files | BadFile | RowGroups | Table


class FilePart(NamedTuple):
    """Consecutive rows of a file; see `Piece`."""

    number: int
    rows: int
    content: Content


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a source.

    Args:
        where: The source's field in the run document; error messages begin with it.
        file: Address of the (first) file.
        first_row: Number of the first row, counted over all files of the source.
        rows: Number of rows. Blank lines and empty documents count, because they are recognised only later.
        number: Number of the first row in its file.
        content: The rows, or their location.
        skips_files: Whether a file that cannot be read is left out. Default: it is an error.
        skips_rows: The same for a row.
    """

    where: str
    file: str
    first_row: int
    rows: int
    number: int
    content: Content
    skips_files: bool = False
    skips_rows: bool = False

    @property
    def skips(self) -> bool:
        """Whether a row that does not have the format is left out."""
        return self.skips_files if isinstance(self.content, Files) else self.skips_rows

    @property
    def size_bytes(self) -> int:
        """Bytes of the text in the piece; 0 if it contains only the location."""
        return len(self.content.data) if isinstance(self.content, Lines | Table) else 0


class FilePlace(NamedTuple):
    """The place of a file in its source."""

    file: str
    """Address of the file."""
    rows_before: int
    """Rows of the files before it."""


class Wanted(NamedTuple):
    """The wanted rows [start, end) of a source or of a file."""

    start: int
    end: int

    def after(self, first: int) -> Wanted:
        """The same rows, counted from row ``first`` on."""
        return Wanted(self.start - first, self.end - first)

    def within(self, first: int, rows: int) -> tuple[int, int]:
        """The wanted ones of ``rows`` rows from ``first`` on: a range [start, end) counted from ``first``, which may be
        empty.
        """
        start = min(max(self.start - first, 0), rows)
        return start, max(start, min(self.end - first, rows))
