"""What a user should know about the sources of a run: the form of the rows, what is left out, the template, files of
another kind, text that is too short.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from halcyon.data.batch_schedule import build_schedule
from halcyon.data.cache.ensure import Caches
from halcyon.data.cache.ledger import Ledger
from halcyon.data.cache.skipped import MOST_EXAMPLES
from halcyon.data.dataset import ValidationData
from halcyon.data.formats import build_formatter
from halcyon.data.layout.spans import LayoutReport
from halcyon.data.source_kinds import text_warning
from halcyon.tokenizer import load
from halcyon_api.counting import counted
from halcyon_api.training_run import TrainingRunSpec


@dataclass(frozen=True)
class SourceNote:
    """The form of a source of conversations, or what is left out of a source."""

    source: str
    form: str | None
    """The form: its name, and the fields that are read. None: the rows are no conversations."""
    rows: int
    """Rows that are tokenized so far."""
    rejected_rows: int
    """Of these, rows that are left out because their label is false."""
    left_out: str | None
    """What else is left out. None: nothing."""
    layout: LayoutReport | None
    """How its tokens fill sequences. None: it is not known yet."""

    @property
    def units_left_out(self) -> int | None:
        """Documents, conversations, pairs or prompts that are in no sequence."""
        return None if self.layout is None else self.layout.left_out

    @property
    def dropped_tokens(self) -> int | None:
        """Tokens of these, and of a rest that fills no sequence."""
        return None if self.layout is None else self.layout.dropped

    @property
    def cropped_tokens(self) -> int | None:
        """Tokens cut off what is too long for a sequence."""
        return None if self.layout is None else self.layout.cropped

    @property
    def message(self) -> str:
        """One sentence."""
        clauses: list[str] = []
        if self.form is not None:
            clauses.append(f"has the form {self.form}")
        if self.rejected_rows:
            clauses.append(
                f"{self.rejected_rows:,} of {counted(self.rows, 'row')} left out, because the label is false"
            )
        if self.left_out is not None:
            clauses.append(f"leaves out {self.left_out}")
        if self.layout is not None and self.layout.loss is not None:
            clauses.append(f"in sequences: {self.layout.loss}")
        return f"source {self.source} {'; '.join(clauses)}"


def source_notes(caches: Caches, data: ValidationData | None = None) -> Iterator[SourceNote]:
    """The forms of the sources of conversations, and what is left out, in the order of the sources.

    Args:
        caches: The caches.
        data: The data set on top of them. A source that still grows has no layout yet.
    """
    layouts = {} if data is None else {one.name: one.layout.report for one in data.sources if one.turns is None}
    for name, ledger in caches.ledgers.items():
        form, layout = None if ledger.form is None else str(ledger.form), layouts.get(name)
        counts = ledger.counts
        note = SourceNote(name, form, counts.rows, counts.rejected_rows, left_out(ledger), layout)
        if form is not None or note.left_out is not None or (layout is not None and layout.loss is not None):
            yield note


def left_out(ledger: Ledger) -> str | None:
    """What is left out of a source, and the first problems; None: nothing."""
    empty, skipped = ledger.counts.empty_rows, ledger.counts.skipped
    counts = (
        (empty, "row without text", "rows without text"),
        (ledger.hidden, "hidden file or folder", "hidden files and folders"),
        (ledger.excluded, "excluded file or folder", "excluded files and folders"),
        (ledger.others, "file with another ending", "files with other endings"),
        (skipped.binary_files, "binary file", ""),
        (skipped.bad_files, "file that cannot be read", "files that cannot be read"),
        (skipped.bad_rows, "row that cannot be read", "rows that cannot be read"),
    )
    found = [counted(count, one, several) for count, one, several in counts if count]
    if not found:
        return None
    examples = (*skipped.examples, *skipped.binary_examples)[:MOST_EXAMPLES]
    return ". ".join((", ".join(found), *(("The first: " + ". ".join(examples),) if examples else ())))


def source_warnings(spec: TrainingRunSpec, caches: Caches) -> Iterator[str]:
    """One sentence for each property of a template that may surprise, for each source of plain text whose files have
    rows, and for each source that is shorter than a sequence.
    """
    tokenizer = load(caches.tokenizer)
    length = build_schedule(spec.trainer).longest
    for source in spec.data.sources:
        yield from build_formatter(
            source.format, tokenizer, where=f"spec.data.sources[{source.name}].format", sight=spec.model.sight
        ).notes
        ledger = caches.ledgers.get(source.name)
        warning = text_warning(source, [file.uri for file in ledger.files] if ledger is not None else ())
        if warning is not None:
            yield warning
        if ledger is not None and ledger.finished and ledger.counts.tokens <= length and spec.task == "train":
            yield (
                f"spec.data.sources[{source.name}]: its {counted(ledger.counts.tokens, 'token')} are less than one "
                f"sequence of {length}, so each step reads the same text again, and the rest is padding; give more "
                "text, or lower spec.trainer.sequenceLength"
            )
