"""Runs as a terminal shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from halcyon_api.status import parse_status
from halcyon_cli.status_view import Host, fleet_view, run_view, sparkline
from tests.cli.test_report import START, STATUS

NOW = datetime(2026, 3, 1, 12, 10, tzinfo=UTC)
RUNNING: dict[str, Any] = {
    **STATUS,
    "progress": {"step": 90, "steps": 100, "loss": 2.5, "tokensPerSecond": 1234.5, "etaSeconds": 75.0, "mfu": 0.41},
    "checkpoint": {"step": 80, "attempt": 2, "path": "steps/80/", "time": "2026-03-01T12:08:00Z"},
    "topology": {"slices": 2, "hosts": 8, "devices": 32, "mesh": {"replica": 2, "data": 1, "fsdp": 16, "tensor": 1}},
}


def text(view: RenderableType) -> str:
    console = Console(width=160, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def test_a_running_run() -> None:
    view = text(run_view("demo", parse_status(RUNNING), 100, [Host("demo-2-s-0-0-x", "node-a", "Running", 65.0)], [3.0, 2.0, 2.5], NOW))
    for words in ("Running", "90 of 100 steps", "1,234 tokens/s", "MFU 41.0%", "75.0 s left", "2.5000", "step 80", "1 preempted, 1 failed"):
        assert words in view, words
    assert "2 slices, 8 hosts, 32 devices; mesh: replica 2, fsdp 16" in view
    assert "node-a" in view
    assert "defaults" not in view


def test_what_a_run_has_taken_from_its_defaults() -> None:
    record = {"sources": [{"namespace": "team", "name": "default"}], "values": {"image": '"x:1"', "checkpoint.keep": "3"}}
    assert "image, checkpoint.keep of team/default" in text(
        run_view("demo", parse_status(RUNNING | {"defaults": record}), 100, [], [], NOW)
    )


def test_a_waiting_run_says_why_and_since_when() -> None:
    waiting = {
        "phase": "Pending",
        "conditions": [{"type": "Ready", "status": "False", "reason": "Unschedulable", "message": "no room", "lastTransitionTime": START}],
    }
    view = text(run_view("demo", parse_status(waiting), 100, [], [], NOW))
    assert "no room" in view
    assert "10 min 0 s" in view
    assert "no room" in text(fleet_view([("team", "demo", parse_status(waiting))], NOW))


def test_the_fleet() -> None:
    view = text(fleet_view([("team", "demo", parse_status(RUNNING)), ("team", "new", parse_status(None))], NOW))
    for words in ("demo", "new", "90/100", "80 (2 min 0 s)", "80%", "32"):
        assert words in view, words
    assert text(fleet_view([], NOW)).strip() == "no training runs"


@pytest.mark.parametrize(("values", "line"), [([1.0, 2.0, 3.0], "▁▄█"), ([5.0, 5.0], "▁▁"), ([0.0, 0.0, 7.0, 7.0], "▁█"), ([1.0], "▁")])
def test_a_sparkline(values: list[float], line: str) -> None:
    assert sparkline(values, 2 if len(values) == 4 else 8) in (line, line.replace("▄", "▅"))
