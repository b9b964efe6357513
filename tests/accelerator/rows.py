"""The rows that the stages report, as JSON lines and as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.page_block import with_block

Row = dict[str, Any]
"""A row: ``stage``, the names of the case, then its figures. The names of figures end with their unit, such as ``step
ms``.

A row with ``error`` says what failed; one with ``left out`` says why another library's kernel was not measured, which
is no failure."""

NOTHING = "Not measured yet."
ON_THE_PAGE: dict[str, tuple[str, tuple[str, ...], Row]] = {
    "A step of 32,768 tokens of a Llama, of 1.2 billion parameters unless the widths are 8B": (
        "llama-",
        ("widths", "length", "fields", "step ms", "tokens/s", "MFU", "planned GB", "used GB"),
        {},
    ),
    "Kinds of attention: 32 heads, 8 for keys, of 64 numbers": (
        "attention-speed",
        ("mask", "implementation", "forward ms", "forward and backward ms", "TFLOP/s"),
        {"heads": "32 / 8 x 64"},
    ),
    "nanochat's depth 12": ("nanochat", ("step", "attention", "step ms", "tokens/s", "MFU"), {}),
}
"""The tables of the page by title: the beginning of the names of their stages, their columns, and what rows must have."""
_MACHINE = "machine"
"""The stage of the row that names the machine; it begins a run of the script."""


def cell(value: Any) -> str:
    """A value of a row, for a table: three significant digits, and thousands with separators."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value == 0:
            return "0"
        if 1e-3 <= abs(value) < 1000:
            return f"{value:.3g}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|").replace("\n", " ")


class Table:
    """Prints rows as Markdown: a new heading and header wherever the stage or its columns change."""

    def __init__(self) -> None:
        self._header: tuple[str, ...] | None = None
        self._stage = ""

    def lines(self, row: Mapping[str, Any]) -> list[str]:
        """The lines that a row adds."""
        stage, names = row["stage"], tuple(name for name in row if name != "stage")
        for word in ("error", "left out"):
            if word in names:
                self._header = None
                facts = ", ".join(cell(row[name]) for name in names if name != word)
                return ["", f"{stage}{': ' if facts else ''}{facts}: **{word}**: {cell(row[word])}"]
        found: list[str] = []
        if stage == _MACHINE:
            self._header, self._stage = None, stage
            return ["", "; ".join(f"{name} {cell(row[name])}" for name in names)]
        if stage != self._stage:
            found += ["", f"**{stage}**"]
        if stage != self._stage or names != self._header:
            found += ["", *_head(names)]
        self._stage, self._header = stage, names
        return [*found, f"| {' | '.join(cell(row[name]) for name in names)} |"]


def by_card(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """The rows of each card, with those of its machines first. A stage that a later run measured again replaces the
    earlier one; that a stage ended at its limit is left out.
    """
    stages: dict[str, dict[str, list[Row]]] = {}
    card, run = "", 0
    of_run: dict[tuple[str, str], int] = {}
    for row in map(dict, rows):
        stage = row["stage"]
        if stage == _MACHINE:
            card, run = row["card"], run + 1
            stages.setdefault(card, {}).setdefault(_MACHINE, []).append(row)
        elif not str(row.get("error", "")).startswith("ended after"):
            if of_run.get((card, stage)) != run:
                of_run[card, stage] = run
                stages.setdefault(card, {})[stage] = []
            stages[card][stage].append(row)
    return {name: [row for found in of_card.values() for row in found] for name, of_card in stages.items()}


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """Tables of all rows."""
    table = Table()
    return "\n".join(line for row in rows for line in table.lines(row)).strip()


def read(path: Path) -> list[Row]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def with_section(page: str, rows: list[Row]) -> str:
    """A page of Markdown with the tables of `ON_THE_PAGE` in its block.

    Raises:
        LookupError: The page has no such block.
    """
    of_cards = by_card(rows)
    machines = dict.fromkeys(
        "; ".join(f"{name} {cell(row[name])}" for name in row if name != "stage")
        for found in of_cards.values()
        for row in found
        if row["stage"] == _MACHINE
    )
    tables = [
        "\n".join((f"**{title}**", "", *_head(("card", *columns)), *lines))
        for title, (stages, columns, having) in ON_THE_PAGE.items()
        if (lines := list(_lines(of_cards, stages, columns, having)))
    ]
    measured = "\n".join(f"- {machine}" for machine in machines)
    return with_block(page, "accelerator", "\n\n".join((*tables, measured)) if tables else NOTHING)


def _head(columns: Sequence[str]) -> tuple[str, str]:
    return f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"


def _lines(of_cards: Mapping[str, Iterable[Row]], stages: str, columns: Sequence[str], having: Row) -> Iterator[str]:
    for card, rows in of_cards.items():
        for row in rows:
            if (
                row["stage"].startswith(stages)
                and {"error", "left out"}.isdisjoint(row)
                and row.items() >= having.items()
            ):
                cells = (card.removeprefix("NVIDIA "), *(cell(row.get(name)) for name in columns))
                yield f"| {' | '.join(cells)} |"
