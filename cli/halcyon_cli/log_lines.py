"""The logs of all processes of a run as one story. Pure.

Every process writes JSON lines with the time, its world and its index; what libraries write in between is no JSON and belongs to the line
before it. Lines are put in order by their times, which the nodes' clocks keep near enough; lines of one process never change places.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.text import Text

_COMMON = ("event", "time", "run", "attempt", "restart", "process", "step")
_STYLES = {"error": "bold red", "checkpointFailed": "red", "warning": "yellow", "fallback": "yellow", "preempted": "yellow"}
_QUIET = {"start", "joined", "restored", "compiled", "checkpoint"}


@dataclass(frozen=True)
class LogLine:
    """One line of one process."""

    time: str
    """RFC 3339, in one format, so that texts compare as times do."""
    pod: str
    text: str
    fields: dict[str, Any]
    """Empty for a line that is no JSON."""

    @property
    def event(self) -> str:
        """What kind of line it is; empty for what libraries write."""
        return str(self.fields.get("event", ""))

    @property
    def step(self) -> int | None:
        """Steps done, where the line says so."""
        step = self.fields.get("step")
        return step if isinstance(step, int) else None


def parse(lines: Iterable[str], pod: str) -> Iterator[LogLine]:
    """The lines of one pod's log."""
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
    """All lines of several pods in one order."""
    return heapq.merge(*logs, key=lambda line: line.time)


def losses(lines: Iterable[LogLine]) -> list[float]:
    """The losses of the steps, in the order of the steps; of a step that was done again, the last."""
    found = {line.step: line.fields.get("loss") for line in lines if line.event == "step" and line.step is not None}
    return [float(loss) for _, loss in sorted(found.items()) if isinstance(loss, int | float)]


def shown(line: LogLine) -> Text:
    """A line as a terminal shows it: time, world and process, step, event, and the rest."""
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
