"""Merges the logs of all processes of a run into one. Pure.

Every process writes JSON lines with the time, its process group (attempt, restart) and its index. Libraries write other
text in between, which belongs to the line before it. Lines are sorted by time, as the clocks of the nodes are close
enough; lines of one process keep their order.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.text import Text

_COMMON = ("event", "time", "run", "attempt", "restart", "process", "step")
_STYLES = {
    "error": "bold red",
    "checkpointFailed": "red",
    "exportFailed": "red",
    "warning": "yellow",
    "fallback": "yellow",
    "headRebuilt": "yellow",
    "preempted": "yellow",
}
_QUIET = {"start", "joined", "restored", "compiled", "checkpoint"}


@dataclass(frozen=True)
class LogLine:
    """One line of one process."""

    time: str
    """RFC 3339, always in the same format, so that comparing texts compares times."""
    pod: str
    text: str
    fields: dict[str, Any]
    """Empty for a line that is not JSON."""

    @property
    def event(self) -> str:
        """The kind of the line; empty for text from libraries."""
        return str(self.fields.get("event", ""))

    @property
    def step(self) -> int | None:
        """Steps done; None if the line does not report them."""
        step = self.fields.get("step")
        return step if isinstance(step, int) else None


def parse(lines: Iterable[str], pod: str) -> Iterator[LogLine]:
    """Yield the lines of one pod's log; a line without a time gets the time of the line before it."""
    time = ""
    for line in lines:
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError:
            fields = {}
        if not isinstance(fields, dict) or not isinstance(fields.get("time"), str):
            fields = {}
        time = max(time, fields.get("time", time))
        yield LogLine(time, pod, line, fields)


def merged(logs: Iterable[Iterable[LogLine]]) -> Iterator[LogLine]:
    """Yield the lines of several pods, sorted by time."""
    return heapq.merge(*logs, key=lambda line: line.time)


def losses(lines: Iterable[LogLine]) -> list[float]:
    """Return the losses in the order of the steps; of a repeated step, the last loss."""
    found = {line.step: line.fields.get("loss") for line in lines if line.event == "step" and line.step is not None}
    return [float(loss) for _, loss in sorted(found.items()) if isinstance(loss, int | float)]


def shown(line: LogLine) -> Text:
    """Return a line as a terminal shows it: time, ``attempt.restart/process``, step, event, and the other fields."""
    if not line.fields:
        return Text(f"{line.time[11:19]:8} {'':24} {line.text}", "dim")
    fields = line.fields
    who = f"{fields.get('attempt', 0)}.{fields.get('restart', 0)}/{fields.get('process', 0)}"
    step = "" if line.step is None else str(line.step)
    rest = " ".join(f"{name}={_value(value)}" for name, value in fields.items() if name not in _COMMON)
    text = Text(f"{line.time[11:19]} {who:>8} {step:>8} ", "dim")
    text.append(f"{line.event:<10} ", _STYLES.get(line.event, "cyan" if line.event in _QUIET else "default"))
    return text.append(rest, _STYLES.get(line.event, "default"))


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
