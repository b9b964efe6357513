"""Pictures of dashboards: every panel is drawn from the results of its own queries."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

import pytest

from halcyon_dashboards.amounts import amount
from halcyon_dashboards.generate import FILES
from halcyon_dashboards.picture import draw, substituted
from halcyon_dashboards.queries import DASHBOARDS, FLEET

VARIABLES = {"namespace": "team", "run": "demo", "__rate_interval": "30s"}


def board(name: str) -> dict[str, object]:
    return json.loads((FILES / "dashboards" / f"{name}.json").read_text())


def some(expression: str) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
    assert "$" not in expression, "all variables must be replaced"
    labels = {"namespace": "team", "run": "demo", "phase": "Running", "cause": "a<b", "version": "1"}
    return [(labels, [(0.0, 1.0), (50.0, 3.0), (100.0, 2.0)])]


def none(_: str) -> Sequence[tuple[Mapping[str, str], Sequence[tuple[float, float]]]]:
    return []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_is_drawn(name: str) -> None:
    drawn = draw(board(name), some, VARIABLES, 0, 100)
    root = ET.fromstring(drawn)  # noqa: S314 - made here
    words = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {panel["title"] for panel in board(name)["panels"]} <= words  # type: ignore[attr-defined]
    assert "no data" not in words
    assert "a<b" in words or name == "operator"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_panel_without_data_is_labelled_no_data(name: str) -> None:
    panels = [panel for panel in board(name)["panels"] if panel["type"] in ("timeseries", "stat")]  # type: ignore[attr-defined]
    assert draw(board(name), none, VARIABLES, 0, 100).count("no data") == len(panels)


def test_the_table_has_a_row_for_each_run() -> None:
    def ask(expression: str) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        rows = [{"namespace": "team", "run": run, "phase": "Running"} for run in ("first", "second")]
        is_table = expression in {substituted(query.expr, VARIABLES) for name, query in FLEET.items() if name.startswith("table")}
        over = {"namespace": "team", "run": "first", "phase": "Starting"}
        return [*((row, [(100.0, 0.25)]) for row in rows), (over, [(0.0, 0.25)])] if is_table else []

    drawn = draw(board("fleet"), ask, VARIABLES, 0, 100)
    for word in (">first<", ">second<", ">Progress<", ">25 %<", ">Checkpoint age<", ">250 ms<", ">Running<"):
        assert word in drawn, word
    assert ">Starting<" not in drawn, "an earlier phase must not be shown"


def test_no_line_is_drawn_over_gaps_or_nan_values() -> None:
    def ask(expression: str) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        return [({}, [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (60.0, 3.0), (61.0, 4.0)])] if "loss_nats" in expression else []

    drawn = draw(board("run"), ask, VARIABLES, 0, 100)
    assert drawn.count("<polyline") == 4, "two pieces of the training loss, two of the evaluation's"
    assert "nan" not in drawn


def test_a_phase_that_is_over_is_not_shown() -> None:
    def ask(expression: str) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        is_phase = expression.startswith("max by (namespace, run, phase)")
        return [({"phase": "Running"}, [(50.0, 1.0), (100.0, 1.0)]), ({"phase": "Starting"}, [(0.0, 1.0)])] if is_phase else []

    drawn = draw(board("run"), ask, VARIABLES, 0, 100)
    assert ">Running<" in drawn
    assert ">Starting<" not in drawn


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.456, "percentunit", "45.6 %"),
        (0.0123, "s", "12.3 ms"),
        (90, "s", "90 s"),
        (600, "s", "10 min"),
        (9000, "s", "2.5 h"),
        (1_500_000, "short", "1.5 M"),
        (1_048_576, "bytes", "1.05 MB"),
        (2.5, "none", "2.5"),
        (3, "reqps", "3 /s"),
        (float("nan"), "short", "nan"),
    ],
)
def test_amounts(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text


def test_variables_are_replaced_whole() -> None:
    assert substituted("$run $runs $__rate_interval", {"run": "a", "runs": "b", "__rate_interval": "1m"}) == "a b 1m"
