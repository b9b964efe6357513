"""The alerts as a table, from Prometheus's answer to ``/api/v1/rules``. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from halcyon_dashboards.amounts import amount

_STATES = {"firing": "bold red", "pending": "yellow", "inactive": "green"}
"""State → style, in the order of the table."""


def alert_table(rules: Mapping[str, Any], now: datetime) -> Table:
    """Return a table of all alerts: one line per pending or firing instance, and one line per alert without instances.

    Args:
        rules: The field ``data`` of the answer.
        now: Time of the answer, with time zone.
    """
    table = Table("alert", "severity", "state", box=SIMPLE_HEAD)
    table.add_column("since", justify="right")
    table.add_column("waits for", justify="right")
    table.add_column("summary", overflow="fold")
    lines = [line for group in rules["groups"] for rule in group["rules"] if rule["type"] == "alerting" for line in _lines(rule, now)]
    for state, *cells in sorted(lines, key=lambda line: list(_STATES).index(line[0])):
        name, severity, *rest = cells
        style = "dim" if state == "inactive" else ""
        table.add_row(Text(name, style), Text(severity, style), Text(state, _STATES[state]), *(Text(cell, style) for cell in rest))
    return table


def _lines(rule: Mapping[str, Any], now: datetime) -> Iterator[tuple[str, ...]]:
    """Yield lines of state, alert, severity, time since the start, required duration, summary."""
    name, severity, waits = rule["name"], rule["labels"]["severity"], amount(rule["duration"], "s") if rule["duration"] else "-"
    for alert in rule["alerts"]:
        since = max(0.0, (now - datetime.fromisoformat(alert["activeAt"])).total_seconds())
        yield alert["state"], name, severity, amount(round(since), "s"), waits, alert["annotations"]["summary"]
    if not rule["alerts"]:
        yield rule["state"], name, severity, "-", waits, ""
