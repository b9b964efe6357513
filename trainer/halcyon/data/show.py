"""Examples and sources as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from halcyon.data.cache.build import Built
from halcyon.data.cache.ledger import Ledger
from halcyon.data.cache.reader import TokenReader
from halcyon.data.dataset import NO_SOURCE, Dataset, Rows
from halcyon.data.examples import Examples
from halcyon.data.trace import trace
from halcyon.tokenizer import Tokenizer

_SEGMENT_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
_BARS = " ▁▂▃▄▅▆▇█"
_HISTOGRAM_BINS = 40


def step_view(dataset: Dataset, ledgers: Mapping[str, Ledger], step: int, chosen: np.ndarray) -> Iterator[RenderableType]:
    """Rows of a step: where each comes from, and its text, coloured by document; what does not count in the loss is dim.

    Args:
        dataset: The data.
        ledgers: Of its sources.
        step: The step, counted from 0.
        chosen: Which rows of the batch.
    """
    rows = dataset.train_rows(step)[chosen]
    examples = dataset.examples(rows)
    for number, (row, excerpts) in enumerate(zip(chosen.tolist(), trace(dataset, rows, ledgers), strict=True)):
        yield _heading(dataset, rows, number, row)
        for excerpt in excerpts:
            origin = f"{excerpt.file}, row {excerpt.row}" if excerpt.file else f"document {excerpt.document}"
            yield Text(f"  {excerpt.offset:>6}  {excerpt.tokens} tokens of {origin}", style="dim")
        yield coloured(examples, number, dataset.tokenizer)
        yield Text()


def _heading(dataset: Dataset, rows: Rows, number: int, row: int) -> Text:
    index = int(rows.source[number])
    if index == NO_SOURCE:
        return Text(f"row {row}: past the end of the data, weight 0", style="bold")
    part = f", part {int(rows.part[number])}" if rows.length != dataset.sequence_length else ""
    return Text(f"row {row}: source {dataset.sources[index].name}, sequence {int(rows.sequence[number])}{part}", style="bold")


def coloured(examples: Examples, number: int, tokenizer: Tokenizer) -> Text:
    """One example as text: the tokens that are predicted, each document in a colour, those of weight 0 dim and struck through."""
    text = Text()
    targets, weights, segments = examples.targets[number], examples.weights[number], examples.segments[number]
    names = {identifier: name for name, identifier in tokenizer.special_tokens.items()}
    borders = np.flatnonzero((np.diff(segments) != 0) | (np.diff(weights) != 0) | np.isin(targets[:-1], list(names))) + 1
    for begin, end in zip([0, *borders.tolist()], [*borders.tolist(), len(targets)], strict=True):
        style = _SEGMENT_COLOURS[int(segments[begin]) % len(_SEGMENT_COLOURS)] + (" dim strike" if weights[begin] == 0 else "")
        for identifier in targets[begin:end] if int(targets[begin]) in names else ():
            text.append(names.get(int(identifier), tokenizer.decode(np.array([identifier]))), style=f"{style} reverse")
        if int(targets[begin]) not in names:
            text.append(tokenizer.decode(targets[begin:end]), style=style)
    return text


def source_table(ledgers: Mapping[str, Ledger]) -> Table:
    """What the caches hold."""
    table = Table(title="Token caches", title_justify="left", box=SIMPLE_HEAD)
    for name in ("source", "rows", "empty", "documents", "tokens", "bytes", "bytes/token", "shards"):
        table.add_column(name, justify="left" if name == "source" else "right")
    for name, ledger in ledgers.items():
        empty = sum(shard.empty_rows for shard in ledger.shards)
        cells = (ledger.rows, empty, ledger.documents, ledger.tokens, ledger.size_bytes)
        ratio = f"{ledger.size_bytes / ledger.tokens:.3f}" if ledger.tokens else "-"
        table.add_row(name, *(f"{cell:,}" for cell in cells), ratio, str(len(ledger.shards)))
    return table


def stats_view(dataset: Dataset, ledgers: Mapping[str, Ledger], steps: int) -> RenderableType:
    """Sources of a run: contents, sequences, how often each is seen, and how long its documents are."""
    table = Table(title=f"Sources in {steps} steps", title_justify="left", box=SIMPLE_HEAD)
    for name in ("source", "sequences", "held out", "used", "epochs", "share", "cropped", "padding"):
        table.add_column(name, justify="left" if name == "source" else "right")
    end = dataset.schedule.positions_before(steps)
    epochs, counts = dataset.mixture.epochs(end), dataset.mixture.ranks(end)
    for index, source in enumerate(dataset.sources):
        report = source.layout.report
        table.add_row(
            source.name,
            f"{source.layout.sequences:,}",
            f"{source.split.held_out:,}",
            f"{source.used:,}",
            f"{float(epochs[index]):.3f}",
            f"{int(counts[index]) / max(1, end):.1%}",
            f"{report.cropped_share:.1%}",
            f"{report.padded_share:.1%}",
        )
    return Group(source_table(ledgers), table, *(_lengths(source.name, source.tokens) for source in dataset.sources))


def _lengths(name: str, reader: object) -> RenderableType:
    if not isinstance(reader, TokenReader):
        return Text()
    lengths = np.diff(reader.document_ends(), prepend=0)
    return Group(Text(f"\nTokens of a document, {name}"), histogram(lengths))


def histogram(lengths: np.ndarray) -> RenderableType:
    """Lengths on a logarithmic scale as a line of bars, with their quantiles."""
    low, high = max(1, int(lengths.min())), max(2, int(lengths.max()))
    edges = np.unique(np.geomspace(low, high + 1, _HISTOGRAM_BINS + 1))
    counts, _ = np.histogram(np.maximum(lengths, low), edges)
    levels = np.ceil(counts * (len(_BARS) - 1) / max(1, counts.max())).astype(int)
    quantiles = np.quantile(lengths, (0.05, 0.5, 0.95))
    bars = "".join(_BARS[level] for level in levels)
    words = f"5 % below {quantiles[0]:,.0f}, half below {quantiles[1]:,.0f}, 5 % above {quantiles[2]:,.0f}, mean {lengths.mean():,.0f}"
    return Group(Text(f"{low:>9,} {bars} {high:,}", style="green"), Text(f"          {words}", style="dim"))


def speed_words(built: Built, seconds: float) -> str:
    """Documents, text and tokens a second."""
    seconds = max(seconds, 1e-9)
    return f"{built.documents / seconds:,.0f} docs/s  {built.size_bytes / seconds / 1e6:.1f} MB/s  {built.tokens / seconds:,.0f} tokens/s"
