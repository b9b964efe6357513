"""The report of a run: each part of its time is in its place, and the parts add up to the whole time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from halcyon_api.status.goodput import LOOKS, GoodputSeconds, cause_label
from halcyon_api.status.run_status import parse_status
from halcyon_cli.cluster import Runs
from halcyon_cli.kubectl import app
from halcyon_cli.main import app as halcyon_app
from halcyon_cli.report import draw, read_report, span
from tests.cli.api_server import Server

START = "2026-03-01T12:00:00Z"


def group(attempt: int, restart: int, **entry: Any) -> dict[str, Any]:
    return {"attempt": attempt, "restart": restart, "startedAt": START, **entry}


STATUS: dict[str, Any] = {
    "phase": "Running",
    "startedAt": START,
    "restarts": {"total": 2, "preempted": 1, "failed": 1},
    "progress": {"step": 90, "steps": 100},
    "history": [
        group(
            1,
            0,
            fromStep=0,
            toStep=40,
            endedAt=START,
            cause="preempted",
            seconds={"operatorDelay": 1.0, "capacityWait": 9.0, "startup": 5.0, "compile": 5.0, "productiveStep": 80.0},
        ),
        group(
            1,
            1,
            fromStep=30,
            toStep=60,
            endedAt=START,
            cause="failed",
            seconds={"startup": 10.0, "productiveStep": 60.0, "other": 2.5},
        ),
        group(2, 0, fromStep=60),
    ],
    "goodput": {
        "ratio": 0.8,
        "wallSeconds": 200.0,
        "productiveSeconds": 160.0,
        "lostSteps": 10,
        "suspendedSeconds": 30.0,
        "seconds": {
            "operatorDelay": 1.0,
            "capacityWait": 9.0,
            "startup": 22.5,
            "compile": 5.0,
            "productiveStep": 140.0,
            "lostWork": 20.0,
            "other": 2.5,
        },
        "current": {"seconds": {"startup": 7.5, "productiveStep": 20.0}},
    },
}


def run_document(**status: Any) -> dict[str, Any]:
    return {"kind": "TrainingRun", "metadata": {"name": "demo", "namespace": "default"}, "status": {**STATUS, **status}}


def test_process_groups_are_listed_one_after_the_other() -> None:
    report = read_report("demo", parse_status(STATUS))
    assert report is not None
    assert [(one.name, one.begins_seconds, one.from_step, one.to_step, one.ended) for one in report.groups] == [
        ("1.0", 0.0, 0, 40, "preempted"),
        ("1.1", 100.0, 30, 60, "failed"),
        ("2.0", 172.5, 60, 90, ""),
    ]
    assert report.groups[0].seconds.lost_work == 20, "a quarter of the first process group's steps were done again"
    assert report.wall_seconds == sum(one.seconds.total for one in report.groups) == 200


def test_process_groups_dropped_from_the_history_are_one_entry() -> None:
    document = json.loads(json.dumps(STATUS))
    document["goodput"]["carried"] = {"seconds": {"productiveStep": 1000.0}, "lostSteps": 3}
    report = read_report("demo", parse_status(document))
    assert report is not None
    assert [(one.name, one.begins_seconds) for one in report.groups][:2] == [("earlier", 0.0), ("1.0", 1000.0)]


def test_time_between_two_attempts_belongs_to_the_next() -> None:
    document = json.loads(json.dumps(STATUS))
    document["history"] = document["history"][:2]
    report = read_report("demo", parse_status(document))
    assert report is not None
    assert (report.groups[-1].name, report.groups[-1].seconds.total) == ("next", 27.5)


def test_every_cause_has_a_place_a_meaning_and_a_colour_of_its_own() -> None:
    assert set(LOOKS) == set(GoodputSeconds.model_fields)
    assert len({look.colour for look in LOOKS.values()}) == len({look.place for look in LOOKS.values()}) == len(LOOKS)


def test_the_picture_is_to_scale() -> None:
    report = read_report("de<mo", parse_status(STATUS))
    assert report is not None
    picture = ET.fromstring(draw(report))  # noqa: S314 - from this repository
    space = "{http://www.w3.org/2000/svg}"
    bars = [bar for bar in picture.iter(f"{space}rect") if bar.find(f"{space}title") is not None]
    rows: dict[str, float] = {}
    for bar in bars:
        rows[bar.attrib["y"]] = rows.get(bar.attrib["y"], 0.0) + float(bar.attrib["width"])
    whole, *groups = rows.values()
    assert sum(groups) == pytest.approx(whole, abs=1)
    assert [width / whole for width in groups] == pytest.approx([0.5, 0.3625, 0.1375], abs=0.005)
    assert any((bar.find(f"{space}title").text or "").startswith("lostWork") for bar in bars)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (119.9, "119.9 s"), (150, "2 min 30 s"), (9000, "2 h 30 min"), (200_000, "2 d 7 h")],
)
def test_durations_have_readable_units(seconds: float, words: str) -> None:
    assert span(seconds) == words


def test_the_command_reads_the_run_in_the_cluster(server: Server, runs: Runs, tmp_path: Path) -> None:
    server.run = run_document()
    picture = tmp_path / "demo.svg"
    for application in (app, halcyon_app):
        result = CliRunner().invoke(application, ["report", "demo", "--svg", str(picture)])
        assert result.exit_code == 0, result.output
        assert "lostWork" in result.output
        assert "200.0" in result.output
        assert picture.read_text().startswith("<svg")
    found = json.loads(CliRunner().invoke(app, ["report", "demo", "--json"]).output)
    assert sum(found["seconds"].values()) == found["wallSeconds"] == 200
    assert set(found["seconds"]) == {cause_label(cause) for cause in LOOKS}
    result = CliRunner().invoke(app, ["report", "demo", "--svg", f"{tmp_path}/no/such/folder.svg"])
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    server.run = {**server.run, "status": {}}
    result = CliRunner().invoke(app, ["report", "demo"])
    assert (result.exit_code, "has not started yet" in result.stderr) == (1, True)
