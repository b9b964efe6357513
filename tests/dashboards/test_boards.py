"""The dashboards: generated files are up to date, every query is shown, and every metric in a query is exported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from halcyon.telemetry.metrics import METRICS
from halcyon_dashboards import generate
from halcyon_dashboards.queries import DASHBOARDS, RECORDED
from halcyon_dashboards.rules import ALERTS
from halcyon_operator.run.metrics import Metrics
from halcyon_operator.run.run_metrics import RUN_METRICS

BOARDS = {name: json.loads((generate.FILES / "dashboards" / f"{name}.json").read_text()) for name in DASHBOARDS}
KINDS = ("_bucket", "_sum", "_count")


def exported() -> dict[str, set[str]]:
    """Every metric name that a scrape may return, with its labels."""
    found = {"up": set[str](), "process_cpu_seconds_total": set[str](), "process_resident_memory_bytes": set[str]()}
    for metric in METRICS:
        for name in [f"{metric.name}{kind}" for kind in KINDS] if metric.kind == "histogram" else [metric.name]:
            found[name] = {*metric.labels, "namespace", "run", "attempt", "pod"}
    endings = {"counter": ("_total",), "info": ("_info",), "histogram": KINDS}
    for metric in Metrics().registry.collect():
        for ending in endings.get(metric.type, ("",)):
            found[metric.name + ending] = set()
    for metric in RUN_METRICS:
        found[metric.name] = {"namespace", "run", *metric.labels}
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for board, queries in DASHBOARDS.items():
        for name, query in queries.items():
            yield f"{board}: {name}", query.expr
    yield from RECORDED.items()
    for alert in ALERTS:
        yield alert.name, alert.expr


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def asked(board: dict[str, Any]) -> set[str]:
    marks = {mark["expr"] for mark in board.get("annotations", {}).get("list", []) if "expr" in mark}
    return marks | {target["expr"] for panel in panels(board) for target in panel["targets"]}


def test_generated_files_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_and_an_obsolete_file_are_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = generate.generated_files()
    run, *others = [path for path in known if path.stem == "run"]
    assert not others
    monkeypatch.setattr(
        generate, "generated_files", lambda: {path: text for path, text in known.items() if path != run}
    )
    assert generate.main(["--check"]) == 1
    assert "charts/halcyon/files/dashboards/run.json is stale" in capsys.readouterr().err


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_is_on_its_dashboard_and_no_other_expression(name: str) -> None:
    assert asked(BOARDS[name]) == {query.expr for query in DASHBOARDS[name].values()}


@pytest.mark.parametrize(("name", "expression"), list(expressions()))
def test_every_metric_is_exported(name: str, expression: str) -> None:
    plain = re.sub(r'"[^"]*"', '""', expression)
    used = set(
        re.findall(r"\b(?:halcyon_[a-z_]+|process_[a-z_]+|up)\b(?!:)", re.sub(r"[a-z_]*:[a-z_:0-9]+", " ", plain))
    )
    recorded = set(re.findall(r"\b[a-z_]+:[a-z_:0-9]+\b", plain)) | set(re.findall(r"\bhalcyon:[a-z_:0-9]+\b", plain))
    assert used <= exported().keys(), name
    assert recorded <= RECORDED.keys(), name
    assert used | recorded, name


@pytest.mark.parametrize("metric", RUN_METRICS, ids=lambda metric: metric.name)
def test_labels_of_runs_are_those_that_exist(metric: Any) -> None:
    for name, expression in expressions():
        for selector in re.findall(rf"\b{metric.name}\{{([^}}]*)\}}", expression):
            assert set(re.findall(r"(\w+)=~?\"", selector)) <= {"namespace", "run", *metric.labels}, name


@pytest.mark.parametrize("name", BOARDS)
def test_panels_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_asks_the_chosen_source_and_has_a_unit(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == f"halcyon-{name}"
    known = {variable["name"] for variable in board["templating"]["list"]} | {"__rate_interval"}
    for panel in panels(board):
        assert panel["datasource"] == {"type": "prometheus", "uid": "$datasource"}, panel["title"]
        assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= known, panel["title"]
