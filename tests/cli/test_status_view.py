"""Runs as the terminal shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, RenderableType

from halcyon_api.status.run_status import parse_status
from halcyon_cli.status_view import Host, run_view, sparkline
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
    view = text(
        run_view(
            "demo",
            parse_status(RUNNING),
            100,
            [Host("demo-2-s-0-0-x", "node-a", "Running", 65.0)],
            [3.0, 2.0, 2.5],
            NOW,
        )
    )
    for words in (
        "Running",
        "90 of 100 steps",
        "1,234 tokens/s",
        "MFU 41.0%",
        "75.0 s left",
        "2.5000",
        "step 80",
        "1 preempted, 1 failed",
    ):
        assert words in view, words
    assert "2 slices, 8 hosts, 32 devices; mesh: replica 2, fsdp 16" in view
    assert "node-a" in view
    assert "defaults" not in view


def test_a_plan_is_shown_and_what_is_wrong_with_it() -> None:
    plan = {"memory": "40.0 GB of 80.0 GB", "tokensPerSecond": 2000.0, "chipHours": 16.0, "cost": 32.0}
    slow = {"type": "Planned", "status": "False", "reason": "SlowerThanPlanned", "message": "it waits for data"}
    held = [slow | {"lastTransitionTime": "2026-03-01T12:00:00Z"}]
    for conditions, words in (
        ([], "40.0 GB of 80.0 GB of a device, 2,000 tokens/s, 16.0 chip-hours, cost 32.00"),
        (held, "waits for data"),
    ):
        assert words in text(
            run_view("demo", parse_status(RUNNING | {"plan": plan, "conditions": conditions}), 100, [], [], NOW)
        )
    assert "plan" not in text(run_view("demo", parse_status(RUNNING), 100, [], [], NOW))


def test_a_run_that_evaluates() -> None:
    sources = [
        {"source": "prose", "loss": 2.25, "bitsPerByte": 1.5, "tokens": 10_000, "sequences": 40},
        {"source": "code", "loss": 1.25, "tokens": 20_000, "sequences": 80},
    ]
    progress = {
        "step": 15,
        "steps": 15,
        "evaluationLoss": 1.5833,
        "evaluated": {"run": "base", "step": 2000, "path": "steps/2000/", "sources": sources},
    }
    status = parse_status(RUNNING | {"progress": progress, "checkpoint": None})
    view = text(run_view("demo", status, 100, [], [], NOW))
    for words in (
        "15 of 15 batches",
        "run base at step 2,000",
        "prose",
        "2.2500",
        "1.5000",
        "code",
        "1.2500",
        "all",
        "1.5833",
        "30,000",
        "120",
    ):
        assert words in view, words
    begun = {**progress, "evaluationLoss": None, "evaluated": {**progress["evaluated"], "sources": sources[:1]}}
    assert (
        "all"
        not in text(run_view("demo", parse_status(RUNNING | {"progress": begun}), 100, [], [], NOW)).split("sequences")[
            1
        ]
    )


def test_the_view_lists_the_fields_taken_from_defaults() -> None:
    record = {
        "sources": [{"namespace": "team", "name": "default"}],
        "values": {"image": '"x:1"', "checkpoint.keep": "3"},
    }
    assert "image, checkpoint.keep of team/default" in text(
        run_view("demo", parse_status(RUNNING | {"defaults": record}), 100, [], [], NOW)
    )


def test_messages_with_brackets_are_shown_unchanged() -> None:
    message = "container refused: [/bin/sh] is no [bold]program"
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "X",
        "message": message,
        "lastTransitionTime": "2026-03-01T12:08:00Z",
    }
    status = parse_status({"phase": "Pending", "conditions": [ready]})
    host = Host("demo-1-s-0-0-x", "node-[/a]", "Error[/b]", 65.0)
    assert message in text(run_view("demo", status, 100, [host], [], NOW))


def test_a_waiting_run_shows_the_reason_and_the_duration() -> None:
    waiting = {
        "phase": "Pending",
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "Unschedulable",
                "message": "no room",
                "lastTransitionTime": START,
            }
        ],
    }
    view = text(run_view("demo", parse_status(waiting), 100, [], [], NOW))
    assert "no room" in view
    assert "10 min 0 s" in view


@pytest.mark.parametrize(
    ("values", "line"), [([1.0, 2.0, 3.0], "▁▄█"), ([5.0, 5.0], "▁▁"), ([0.0, 0.0, 7.0, 7.0], "▁█"), ([1.0], "▁")]
)
def test_a_sparkline(values: list[float], line: str) -> None:
    assert sparkline(values, 2 if len(values) == 4 else 8) in (line, line.replace("▄", "▅"))
