"""The examples of a step for a terminal: the origin of each token, and its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from halcyon.data.cache.ledger import Ledger
from halcyon.data.dataset import Dataset
from halcyon.data.examples import Examples
from halcyon.data.source_data import NO_SOURCE, BatchRows
from halcyon.data.trace import Excerpt, trace
from halcyon.tokenizer import Tokenizer
from halcyon_api.counting import counted

_SEGMENT_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
_ROWS_AT_ONCE = 256
_LEGEND = "Steps are counted as in the log, from 1; rows, sequences, documents and tokens from 0."
_TEXT_LEGEND = "A document has one colour; what does not count in the loss is dim and struck through; special tokens are reversed."
SAFE = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
"""Control characters to their visible symbols: a document must not be able to control the terminal."""


def step_view(dataset: Dataset, ledgers: Mapping[str, Ledger], step: int, chosen: np.ndarray, *, text: bool) -> Iterator[RenderableType]:
    """The training data of a step: its sources, and the documents and the text of some rows.

    Args:
        dataset: The data.
        ledgers: The ledgers of its sources.
        step: The step, counted from 1 as in the log.
        chosen: Numbers of the rows of the batch to show: integers [n].
        text: Whether to show the text too, coloured by document.
    """
    rows = dataset.train_rows(step - 1)
    yield _summary(dataset, rows, step)
    yield _source_table(dataset, rows, step)
    yield Text(f"{_LEGEND} {_TEXT_LEGEND if text else ''}\n", style="dim")
    for first in range(0, len(chosen), _ROWS_AT_ONCE):
        some = chosen[first : first + _ROWS_AT_ONCE]
        examples = dataset.examples(rows[some])
        for number, (row, excerpts) in enumerate(zip(some.tolist(), trace(dataset, rows[some], ledgers), strict=True)):
            yield _heading(dataset, rows, row, float(examples.weights[number].sum()))
            for excerpt in excerpts:
                yield _origin(excerpt, examples.weights[number])
            if text:
                yield coloured(examples, number, dataset.tokenizer)
                yield Text()


def _summary(dataset: Dataset, rows: BatchRows, step: int) -> Text:
    schedule = dataset.schedule
    words = f"Step {step:,} of {schedule.steps:,}: {counted(len(rows), 'sequence')} of {counted(rows.length, 'token')}"
    stage = schedule.stage_of(step - 1)
    if len(schedule.stages) > 1:
        words += f" (since step {stage.first_step + 1:,})"
    first = schedule.tokens_before(step - 1)
    return Text(f"{words}, tokens {first:,} to {schedule.tokens_before(step) - 1:,} of the run", style="bold")


def _source_table(dataset: Dataset, rows: BatchRows, step: int) -> Table:
    """Rows and share of each source in the step, and its epochs up to the end of the step."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("source", "rows", "share", "epochs so far"):
        table.add_column(name, justify="left" if name == "source" else "right")
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
    return Text(f"  {excerpt.offset:>6}  {tokens} of document {excerpt.document}: {where} ({counted:g} count)", style="dim")


def coloured(examples: Examples, number: int, tokenizer: Tokenizer) -> Text:
    """One example as text: the targets, each document in a colour, targets of weight 0 dim and struck through."""
    text = Text()
    targets, weights, segments = examples.targets[number], examples.weights[number], examples.segments[number]
    names = {identifier: name for name, identifier in tokenizer.special_tokens.items()}
    borders = np.flatnonzero((np.diff(segments) != 0) | (np.diff(weights) != 0) | np.isin(targets[:-1], list(names))) + 1
    for begin, end in zip([0, *borders.tolist()], [*borders.tolist(), len(targets)], strict=True):
        style = _SEGMENT_COLOURS[int(segments[begin]) % len(_SEGMENT_COLOURS)] + (" dim strike" if weights[begin] == 0 else "")
        for identifier in targets[begin:end] if int(targets[begin]) in names else ():
            text.append(names.get(int(identifier), tokenizer.decode(np.array([identifier]))), style=f"{style} reverse")
        if int(targets[begin]) not in names:
            text.append(tokenizer.decode(targets[begin:end]).translate(SAFE), style=style)
    return text
