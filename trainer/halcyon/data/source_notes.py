"""What a user should know about the sources of a run: the form of the rows, rows that are left out, the template, files
of another kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from halcyon.data.cache.ensure import Caches
from halcyon.data.formats import build_formatter
from halcyon.data.source_kinds import text_warning
from halcyon.tokenizer import load
from halcyon_api.counting import counted
from halcyon_api.spec.data import DataSpec


@dataclass(frozen=True)
class SourceNote:
    """The form of a source of conversations."""

    source: str
    form: str
    """The form: its name, and the fields that are read."""
    rows: int
    """Rows that are tokenized so far."""
    rejected_rows: int
    """Of these, rows that are left out because their label is false."""

    @property
    def message(self) -> str:
        """One sentence."""
        left_out = f"; {self.rejected_rows:,} of {counted(self.rows, 'row')} left out, because the label is false"
        return f"source {self.source} has the form {self.form}{left_out if self.rejected_rows else ''}"


def source_notes(caches: Caches) -> Iterator[SourceNote]:
    """The forms of the sources of conversations, in the order of the sources."""
    for name, ledger in caches.ledgers.items():
        if ledger.form is not None:
            yield SourceNote(name, str(ledger.form), ledger.rows, ledger.rejected_rows)


def source_warnings(data: DataSpec, caches: Caches) -> Iterator[str]:
    """One sentence for each property of a template that may surprise, and for each source of plain text whose files
    have rows.
    """
    tokenizer = load(caches.tokenizer)
    for source in data.sources:
        yield from build_formatter(source.format, tokenizer, where=f"spec.data.sources[{source.name}].format").notes
        ledger = caches.ledgers.get(source.name)
        warning = text_warning(source, [file.uri for file in ledger.files] if ledger is not None else ())
        if warning is not None:
            yield warning
