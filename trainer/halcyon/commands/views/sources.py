"""Contents of the sources of a run and their epochs, counted once and shown on a terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic.alias_generators import to_camel
from rich.console import Group, RenderableType
from rich.text import Text

from halcyon.commands.views.tables import EIGHTHS, FittedTable, bar_lines, numbers_table
from halcyon.data.cache.ledger import Ledger
from halcyon.data.cache.reader import TokenReader
from halcyon.data.dataset import Dataset
from halcyon.data.layout.spans import LayoutReport
from halcyon_api.counting import counted

_BINS = 48
_HISTOGRAM_LINES = 3
_CHUNK = 2**22
"""Documents that are processed together."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of documents, in tokens, on a logarithmic scale."""

    counts: np.ndarray
    """Documents in each bin: int64 [bins]."""
    low: int
    high: int
    quantiles: tuple[float, float, float]
    """The lengths below which 5 %, 50 % and 95 % of the documents are."""
    mean: float


@dataclass(frozen=True)
class SourceOverview:
    """One source."""

    name: str
    documents: int
    tokens: int
    lengths: Lengths | None
    """None: the documents are not known."""
    sequences: int
    """Sequences, held-out ones included."""
    validation: int
    used: int
    """Training sequences of an epoch."""
    epochs: float
    """Epochs of the source at the end of the run."""
    epoch_steps: tuple[int, ...]
    """Steps for 1, 2 and 3 epochs of the source; empty: it is never read once."""
    share: float
    """Share of the run's sequences."""
    layout: LayoutReport


def overview(dataset: Dataset, ledgers: Mapping[str, Ledger], steps: int) -> list[SourceOverview]:
    """The overview of each source at the end of a run of ``steps`` steps."""
    end = dataset.schedule.positions_before(steps)
    epochs, counts = dataset.mixture.epochs(end), dataset.mixture.ranks(end)
    return [
        SourceOverview(
            name=source.name,
            documents=ledgers[source.name].counts.documents,
            tokens=ledgers[source.name].counts.tokens,
            lengths=lengths_of(source.tokens.document_ends()) if isinstance(source.tokens, TokenReader) else None,
            sequences=source.layout.sequences,
            validation=source.split.validation,
            used=source.used,
            epochs=float(epochs[index]),
            epoch_steps=tuple(
                dataset.schedule.steps_for(last)
                for epoch in (1, 2, 3)
                if (last := dataset.mixture.position_after(index, epoch)) is not None
            ),
            share=int(counts[index]) / max(1, end),
            layout=source.layout.report,
        )
        for index, source in enumerate(dataset.sources)
    ]


def lengths_of(ends: np.ndarray) -> Lengths:
    """Put documents into bins by length, with one chunk of them in memory at a time.

    Args:
        ends: End of each document in the token stream: int64 [documents], at least one; may be on disk.
    """
    chunks = range(0, len(ends), _CHUNK)
    low = max(1, min(int(_lengths(ends, first).min()) for first in chunks))
    high = max(2, max(int(_lengths(ends, first).max()) for first in chunks))
    edges = np.unique(np.geomspace(low, high + 1, _BINS + 1))
    counts = sum(np.histogram(np.maximum(_lengths(ends, first), low), edges)[0] for first in chunks)
    # With more documents than a chunk has, the quantiles come from an evenly spaced sample of about one chunk.
    some = np.arange(len(chunks), len(ends), len(chunks))
    sample = _lengths(ends, 0) if len(chunks) == 1 else ends[some] - ends[some - 1]
    below, half, above = (float(value) for value in np.quantile(sample, (0.05, 0.5, 0.95)))
    return Lengths(np.asarray(counts), low, high, (below, half, above), float(ends[-1]) / len(ends))


def _lengths(ends: np.ndarray, first: int) -> np.ndarray:
    """Tokens of the documents of one chunk."""
    return np.diff(ends[first : first + _CHUNK], prepend=ends[first - 1] if first else 0)


def source_table(ledgers: Mapping[str, Ledger]) -> FittedTable:
    """Table of the contents of the caches."""
    labelled = any(ledger.counts.rejected_rows for ledger in ledgers.values())
    skips = any(ledger.counts.skipped for ledger in ledgers.values())
    rows = "source", "rows", "empty", *(("label false",) if labelled else ()), *(("left out",) if skips else ())
    table = numbers_table("Token caches", *rows, "documents", "tokens", "bytes", "bytes/token", "shards")
    for name, ledger in ledgers.items():
        rows, empty, rejected, documents, tokens, size_bytes, skipped = ledger.counts
        left_out = *((rejected,) if labelled else ()), *((skipped.rows,) if skips else ())
        cells = rows, empty, *left_out, documents, tokens, size_bytes
        ratio = f"{size_bytes / tokens:.3f}" if tokens else "-"
        table.add_row(name, *(f"{cell:,}" for cell in cells), ratio, str(len(ledger.shards)))
    return table


def ledger_document(name: str, ledger: Ledger) -> dict[str, Any]:
    """The contents of a cache, for programs."""
    files = {"hidden": ledger.hidden, "excluded": ledger.excluded, "others": ledger.others}
    counts = ledger.counts._asdict()
    skipped = {key: value for key, value in vars(counts.pop("skipped")).items() if isinstance(value, int)}
    found = _camel(counts | files | skipped)
    return {"name": name, **found, "shards": len(ledger.shards), "finished": ledger.finished}


def overview_document(source: SourceOverview, ledger: Ledger) -> dict[str, Any]:
    """A source, for programs."""
    lengths = {} if source.lengths is None else vars(source.lengths) | {"counts": source.lengths.counts.tolist()}
    flat = {**vars(source), "layout": _camel(vars(source.layout)), "lengths": _camel(lengths)}
    return ledger_document(source.name, ledger) | _camel(flat)


def _camel(values: Mapping[str, Any]) -> dict[str, Any]:
    return {to_camel(key): value for key, value in values.items()}


def stats_view(sources: list[SourceOverview], ledgers: Mapping[str, Ledger], steps: int) -> RenderableType:
    """Sources of a run: contents, sequences, epochs, and lengths of documents."""
    drops = any(source.layout.left_out for source in sources)
    columns = "source", "sequences", "held out", "used", "epochs", "steps for 1, 2, 3 epochs", "share", "cropped"
    columns = *columns, *(("left out",) if drops else ()), "padding"
    table = numbers_table(f"Sources in {counted(steps, 'step')}", *columns)
    for source in sources:
        table.add_row(
            source.name,
            f"{source.sequences:,}",
            f"{source.validation:,}",
            f"{source.used:,}",
            f"{source.epochs:.3f}",
            ", ".join(map(str, source.epoch_steps)) or "-",
            f"{source.share:.1%}",
            f"{source.layout.cropped_share:.1%}",
            *((f"{source.layout.dropped_share:.1%}",) if drops else ()),
            f"{source.layout.padded_share:.1%}",
        )
    histograms = (_histogram(source.name, source.documents, source.lengths) for source in sources if source.lengths)
    return Group(source_table(ledgers), table, *histograms)


def _histogram(name: str, documents: int, lengths: Lengths) -> RenderableType:
    """Histogram on a logarithmic scale, `_HISTOGRAM_LINES` lines high, and quantiles."""
    levels = np.ceil(lengths.counts * (EIGHTHS * _HISTOGRAM_LINES) / max(1, lengths.counts.max())).astype(int)
    *upper, lowest = bar_lines(levels, _HISTOGRAM_LINES)
    below, half, above = lengths.quantiles
    words = f"5 % below {below:,.0f}, half below {half:,.0f}, 5 % above {above:,.0f}, mean {lengths.mean:,.0f}"
    return Group(
        Text(f"\nTokens of a document, {name}: {counted(documents, 'document')}"),
        *(Text(f"{'':>9} {bars}", style="green") for bars in upper),
        Text(f"{lengths.low:>9,} {lowest} {lengths.high:,}", style="green"),
        Text(f"          {words}", style="dim"),
    )
