"""The rows that the stages report, as JSON lines and as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.page_block import with_block

Row = dict[str, Any]
"""A row: ``stage``, the names of the case, then its figures. The names of figures end with their unit, such as ``step
ms``.

A row with ``error`` says what failed; one with ``left out`` says why another library's kernel was not measured, which
is no failure."""

NOTHING = "Not measured yet."
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
            found += ["", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
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


def short(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of a card for a page: of the errors of attention only the largest of each mask, type and implementation;
    each reason and machine once.
    """
    found: list[Row] = []
    worst: dict[tuple[Any, ...], Row] = {}
    reasons: set[tuple[Any, ...]] = set()
    for row in map(dict, rows):
        if "left out" in row:
            reason = row["stage"], row.get("implementation", row.get("product")), row["left out"]
            if reason not in reasons:
                reasons.add(reason)
                found.append({"stage": reason[0], "what": reason[1], "left out": reason[2]})
        elif row["stage"] == "attention" and "error" not in row:
            case = row["mask"], row["type"], row["implementation"]
            largest = max(row["error of values"], row["largest error of a gradient"])
            if case not in worst:
                worst[case] = {
                    "stage": "attention", "mask": case[0], "type": case[1], "implementation": case[2], "shapes": 0,
                    "largest error": 0.0,
                    "same bits": True,
                }  # fmt: skip
                found.append(worst[case])
            kept = worst[case]
            kept["shapes"] += 1
            kept["largest error"] = max(kept["largest error"], largest)
            kept["same bits"] = kept["same bits"] and row["same bits"]
        elif row["stage"] != _MACHINE or row not in found:
            found.append(row | {"stage": "llama"} if row["stage"].startswith("llama-") else row)
    order = {name: number for number, name in enumerate(dict.fromkeys(row["stage"] for row in found))}
    return sorted(found, key=lambda row: (order[row["stage"]], "left out" in row))


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """Tables of all rows."""
    table = Table()
    return "\n".join(line for row in rows for line in table.lines(row)).strip()


def read(path: Path) -> list[Row]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def with_section(page: str, rows: list[Row]) -> str:
    """A page of Markdown with the tables of rows in its block.

    Raises:
        LookupError: The page has no such block.
    """
    tables = [f"### {card}\n\n{markdown(short(found))}" for card, found in by_card(rows).items()]
    return with_block(page, "accelerator", "\n\n".join(tables) or NOTHING)
