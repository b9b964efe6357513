"""Counts the files and rows of a source that are left out, and limits their share."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import NonNegativeInt

from halcyon.data.sources.piece import LeftOut
from halcyon_api.checkpoint_documents import Document
from halcyon_api.counting import counted

MOST_EXAMPLES = 3
_FIRST_ROWS = 1000
"""Rows after which the share is limited before the end of the source."""


class Skipped(Document):
    """Files and rows that are left out, which made no document. Each of them counts as a row too."""

    binary_files: NonNegativeInt = 0
    """Files of a text source that hold no text."""
    bad_files: NonNegativeInt = 0
    """Files that cannot be read."""
    bad_rows: NonNegativeInt = 0
    """Rows that cannot be read."""
    examples: tuple[str, ...] = ()
    """The first files and rows that cannot be read, each as a sentence."""
    binary_examples: tuple[str, ...] = ()
    """The first binary files, each as a sentence."""

    @classmethod
    def of(cls, found: Iterable[LeftOut]) -> Skipped:
        """The counts of some rows that are left out."""
        found = tuple(found)
        kinds = [one.kind for one in found]
        bad, binary = (
            tuple(one.problem for one in found if (one.kind == "binary") == wanted)[:MOST_EXAMPLES]
            for wanted in (False, True)
        )
        return cls(
            binary_files=kinds.count("binary"),
            bad_files=kinds.count("file"),
            bad_rows=kinds.count("row"),
            examples=bad,
            binary_examples=binary,
        )

    def __add__(self, other: Skipped) -> Skipped:
        return Skipped(
            binary_files=self.binary_files + other.binary_files,
            bad_files=self.bad_files + other.bad_files,
            bad_rows=self.bad_rows + other.bad_rows,
            examples=(*self.examples, *other.examples)[:MOST_EXAMPLES],
            binary_examples=(*self.binary_examples, *other.binary_examples)[:MOST_EXAMPLES],
        )

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def rows(self) -> int:
        """Number of rows that are left out; a file is one."""
        return self.binary_files + self.bad_files + self.bad_rows

    def too_many(self, rows: int, files: int, most: float, *, finished: bool) -> str | None:
        """Why the source cannot be used; None: it can.

        Args:
            rows: Rows read so far.
            files: Files of the source.
            most: Largest share that may be skipped.
            finished: Whether all rows are read.
        """
        for name, bad, total in (("file", self.bad_files, files), ("row", self.bad_rows, rows)):
            judged = finished or name == "file" or total >= _FIRST_ROWS
            if judged and bad > most * total:
                return (
                    f"{bad:,} of {counted(total, name)} cannot be read, more than the share {most:g} of maxSkipped; "
                    f"fix them, or raise maxSkipped. The first: {self.examples[0]}"
                )
        return None


NOTHING = Skipped()
