"""The table of alerts: each alert with its state, firing ones first."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as ET

from rich.console import Console

from halcyon_dashboards.alert_table import alert_table
from halcyon_dashboards.terminal import as_svg

NOW = datetime(2026, 1, 1, 12, 2, tzinfo=UTC)


def rule(name: str, state: str, duration: float, *alerts: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "alerting",
        "name": name,
        "state": state,
        "duration": duration,
        "labels": {"severity": "critical"},
        "alerts": list(alerts),
    }


def alert(state: str, since: str, summary: str) -> dict[str, Any]:
    return {"state": state, "activeAt": since, "labels": {"run": "demo"}, "annotations": {"summary": summary}, "value": "1e+00"}


RULES = {
    "groups": [
        {
            "rules": [
                {"type": "recording", "name": "recorded"},
                rule("Quiet", "inactive", 300),
                rule("Waits", "pending", 3600, alert("pending", "2026-01-01T12:01:30.123456789Z", "Run team/slow has not trained.")),
                rule(
                    "Alarm",
                    "firing",
                    0,
                    alert("firing", "2026-01-01T11:00:00Z", "Run team/first has stopped."),
                    alert("firing", "2026-01-01T12:00:00Z", "Run team/second [bold] has stopped."),
                ),
            ]
        }
    ]
}


def test_firing_alerts_come_first_and_no_alert_is_left_out() -> None:
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(alert_table(RULES, NOW))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert [line for line in lines if "critical" in line] == [
        "Alarm critical firing 62 min - Run team/first has stopped.",
        "Alarm critical firing 2 min - Run team/second [bold] has stopped.",
        "Waits critical pending 30 s 60 min Run team/slow has not trained.",
        "Quiet critical inactive - 5 min",
    ]


def test_a_picture_is_the_same_for_the_same_input() -> None:
    drawn = as_svg(alert_table(RULES, NOW), "Alerts", 120)
    assert drawn == as_svg(alert_table(RULES, NOW), "Alerts", 120)
    words = " ".join(text.text or "" for text in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text"))  # noqa: S314 - made here
    assert "firing" in words
