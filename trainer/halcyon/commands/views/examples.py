"""The examples of a step for a terminal: the origin of each token, and its text."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from halcyon.commands.views.tables import FittedTable, numbers_table
from halcyon.data.cache.ledger import Ledger
from halcyon.data.dataset import Dataset
from halcyon.data.examples import Examples
from halcyon.data.layout.prompts import Prompts
from halcyon.data.source_data import NO_SOURCE, BatchRows
from halcyon.data.trace import Excerpt, trace
from halcyon.tokenizer import Tokenizer
from halcyon_api.counting import counted
from halcyon_api.printable import printable

_SEGMENT_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
_ROWS_AT_ONCE = 256
_LEGEND = "Steps are counted as in the log, from 1; rows, sequences, documents and tokens from 0."
_TEXT_LEGEND = (
    "A document has one colour; what does not count in the loss is dim and struck through; special tokens are reversed."
)
_BEGIN_MARK, _END_MARK = "⟦", "⟧"
_MARKED_LEGEND = (
    f"{_BEGIN_MARK}…{_END_MARK} is around what counts in the loss. Special tokens are written as the tokenizer spells "
    "them."
)


def step_view(
    dataset: Dataset, ledgers: Mapping[str, Ledger], step: int, chosen: np.ndarray, *, text: bool, marked: bool
) -> Iterator[RenderableType]:
    """The training data of a step: its sources, and the documents and the text of some rows.

    Args:
        dataset: The data.
        ledgers: The ledgers of its sources.
        step: The step, counted from 1 as in the log.
        chosen: Numbers of the rows of the batch to show: integers [n].
        text: Whether to show the text too, coloured by document.
        marked: Whether to put marks around what counts in the loss, for an output without styles.
    """
    rows = dataset.train_rows(step - 1)
    yield _summary(dataset, rows, step)
    yield _source_table(dataset, rows, step)
    legend = (_MARKED_LEGEND if marked else _TEXT_LEGEND) if text else ""
    yield Text(f"{_LEGEND} {legend}\n", style="dim")
    for begin in range(0, len(chosen), _ROWS_AT_ONCE):
        some = chosen[begin : begin + _ROWS_AT_ONCE]
        examples = dataset.examples(rows[some])
        for number, (row, excerpts) in enumerate(zip(some.tolist(), trace(dataset, rows[some], ledgers), strict=True)):
            yield _heading(dataset, rows, row, float(examples.weights[number].sum()))
            for excerpt in excerpts:
                yield _origin(excerpt, examples.weights[number])
            if text:
                yield shown_text(examples, number, dataset.tokenizer, marked=marked)
                if (reference := _reference(dataset, rows, row)) is not None:
                    yield Text(f"reference: {printable(reference)}", style="italic")
                yield Text()


def step_document(
    dataset: Dataset, ledgers: Mapping[str, Ledger], step: int, chosen: np.ndarray, *, text: bool
) -> dict[str, Any]:
    """The same as `step_view`, for programs. In a text, ``⟦…⟧`` is around what counts in the loss."""
    rows = dataset.train_rows(step - 1)
    examples = dataset.examples(rows[chosen])
    found: list[dict[str, Any]] = []
    for number, (row, excerpts) in enumerate(zip(chosen.tolist(), trace(dataset, rows[chosen], ledgers), strict=True)):
        index = int(rows.source[row])
        one = {"row": row, "source": None if index == NO_SOURCE else dataset.sources[index].name}
        one |= {"sequence": int(rows.sequence[row]), "part": int(rows.part[row])}
        one |= {"targets": float(examples.weights[number].sum()), "excerpts": list(map(vars, excerpts))}
        if text:
            one["text"] = shown_text(examples, number, dataset.tokenizer, marked=True).plain
            one["reference"] = _reference(dataset, rows, row)
        found.append(one)
    return {"step": step, "sequenceLength": rows.length, "batchSize": len(rows), "rows": found}


def _reference(dataset: Dataset, rows: BatchRows, row: int) -> str | None:
    """The reference of a prompt; None: the row is none."""
    index = int(rows.source[row])
    source = dataset.sources[index] if index != NO_SOURCE else None
    if source is None or not isinstance(source.layout, Prompts):
        return None
    ((_, reference),) = source.layout.read(source.tokens, rows.sequence[row : row + 1])
    return reference


def _summary(dataset: Dataset, rows: BatchRows, step: int) -> Text:
    schedule = dataset.schedule
    words = f"Step {step:,} of {schedule.steps:,}: {counted(len(rows), 'sequence')} of {counted(rows.length, 'token')}"
    stage = schedule.period_of(step - 1)
    if len(schedule.periods) > 1:
        words += f" (since step {stage.first_step + 1:,})"
    begin = schedule.tokens_before(step - 1)
    return Text(f"{words}, tokens {begin:,} to {schedule.tokens_before(step) - 1:,} of the run", style="bold")


def _source_table(dataset: Dataset, rows: BatchRows, step: int) -> FittedTable:
    """Rows and share of each source in the step, and its epochs up to the end of the step."""
    table = numbers_table(None, "source", "rows", "share", "epochs so far")
    epochs = dataset.mixture.epochs(dataset.schedule.positions_before(step))
    for index, source in enumerate(dataset.sources):
        count = int((rows.source == index).sum())
        table.add_row(source.name, f"{count:,}", f"{count / len(rows):.1%}", f"{float(epochs[index]):.3f}")
    if missing := int((rows.source == NO_SOURCE).sum()):
        table.add_row("past the end of the data", f"{missing:,}", f"{missing / len(rows):.1%}", "")
    return table


def _heading(dataset: Dataset, rows: BatchRows, row: int, weight: float) -> Text:
    index = int(rows.source[row])
    if index == NO_SOURCE:
        return Text(f"row {row}: past the end of the data, weight 0", style="bold")
    parts = dataset.sequence_length // rows.length
    part = f", part {int(rows.part[row]) + 1} of {parts}" if parts > 1 else ""
    place = f"source {dataset.sources[index].name}, sequence {int(rows.sequence[row])}{part}"
    return Text(f"row {row}: {place}, {weight:g} of {rows.length} targets count", style="bold")


def _origin(excerpt: Excerpt, weights: np.ndarray) -> Text:
    where = f"{excerpt.file}, row {excerpt.row}" if excerpt.file else "a source without files"
    end = excerpt.offset + excerpt.tokens
    # Target t is token t + 1 of the row.
    counted = float(weights[max(0, excerpt.offset - 1) : end - 1].sum())
    tokens = f"tokens {excerpt.begin} to {excerpt.begin + excerpt.tokens - 1}"
    return Text(
        f"  {excerpt.offset:>6}  {tokens} of document {excerpt.document}: {where} ({counted:g} count)", style="dim"
    )


def shown_text(examples: Examples, number: int, tokenizer: Tokenizer, *, marked: bool) -> Text:
    """One example as text, from its first input to its last target: each document in a colour, what does not count dim
    and struck through.

    Every special token is shown by its spelling, because `decode` leaves special tokens out. The first input counts as
    no target.

    Args:
        examples: The examples.
        number: The example.
        tokenizer: The tokenizer of the ids.
        marked: Whether to put marks around what counts in the loss.
    """
    text = Text()
    tokens = np.concatenate([examples.tokens[number][:1], examples.targets[number]])
    counts = np.concatenate([[False], examples.weights[number] > 0])
    # Target t is the input t + 1, and belongs to its document.
    segments = np.concatenate([examples.segments[number], examples.segments[number][-1:]])
    names = {identifier: name for name, identifier in tokenizer.special_tokens.items()}
    special = np.isin(tokens, list(names))
    changes = (np.diff(segments) != 0) | (np.diff(counts) != 0) | special[1:] | special[:-1]
    borders = [0, *(np.flatnonzero(changes) + 1).tolist(), len(tokens)]
    before = False
    for begin, end in itertools.pairwise(borders):
        if marked and counts[begin] != before:
            text.append(_END_MARK if before else _BEGIN_MARK)
        before = bool(counts[begin])
        style = _SEGMENT_COLOURS[int(segments[begin]) % len(_SEGMENT_COLOURS)] + ("" if before else " dim strike")
        if special[begin]:
            text.append(printable(names[int(tokens[begin])]), style=f"{style} reverse")
        else:
            text.append(printable(tokenizer.decode(tokens[begin:end])), style=style)
    return text.append(_END_MARK) if marked and before else text
