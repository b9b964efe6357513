"""The log: one JSON object a line on standard output, or lines for people, with a live one on a terminal.

A float is written with all its digits, and every float32 is a float64. So a loss that is read back has the same bits as
on the device, and two logs can be compared for bitwise equality. Numbers that JSON cannot express are the strings
``"NaN"``, ``"Infinity"``, ``"-Infinity"``.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol, TextIO

from pydantic.alias_generators import to_camel as _to_camel

from halcyon.telemetry.clock import Clock
from halcyon_api.status.progress import Stage

to_camel = lru_cache(maxsize=1024)(_to_camel)


@dataclass(frozen=True)
class RunIdentity:
    """The identity of a process: run, attempt, restart and process index."""

    run: str
    attempt: int = 0
    restart: int = 0
    process_index: int = 0


class EventLog(Protocol):
    """A destination of events.

    Field names are snake_case in Python and camelCase in the output; fields that are None are omitted.
    """

    def event(self, name: str, **fields: Any) -> None:
        """Write one event."""
        ...

    def stage(self, stage: Stage) -> None:
        """Show what the process does now. It is no event."""
        ...

    def close(self) -> None:
        """Restore the state of the stream. Further events are allowed."""
        ...


class JsonLog:
    """JSON lines, each written with one call and flushed, from any thread.

    Args:
        stream: The output.
        identity: The process that writes; its fields are in every line.
        clock: Sources of time.
    """

    def __init__(self, stream: TextIO, identity: RunIdentity, clock: Clock | None = None) -> None:
        self._stream = stream
        names = asdict(identity)
        names["process"] = names.pop("process_index")
        self._identity = names
        self._clock = clock or Clock()
        self._lock = threading.Lock()

    def event(self, name: str, **fields: Any) -> None:
        """Write one line."""
        line = encode_line({"event": name, "time": self._clock.timestamp(), **self._identity, **fields})
        with self._lock:
            self._stream.write(line)
            self._stream.flush()

    def stage(self, stage: Stage) -> None:
        """Do nothing: ``/status`` has the stage."""

    def close(self) -> None:
        """Do nothing: the stream was not changed."""


def open_log(
    stream: TextIO,
    identity: RunIdentity,
    *,
    steps: int | None,
    json_lines: bool | None = None,
    clock: Clock | None = None,
) -> EventLog:
    """The log for a stream: lines for people on a terminal, JSON lines everywhere else.

    Args:
        stream: Standard output.
        identity: The process that writes.
        steps: Steps of the whole run; None for a run without steps.
        json_lines: True: always JSON lines. False: always lines for people. Default: these only on a terminal.
        clock: Sources of time.
    """
    wants_json = not stream.isatty() if json_lines is None else json_lines
    if wants_json:
        return JsonLog(stream, identity, clock)
    from halcyon.telemetry.progress_line import ProgressLine  # imports rich, which a pod does not need

    return ProgressLine(stream, identity.run, steps=steps, live=stream.isatty(), clock=clock)


def encode_line(fields: dict[str, Any]) -> str:
    """One event as one line of strict JSON with a line feed at its end."""
    return _encode(plain(fields)) + "\n"


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def plain(value: Any) -> Any:
    """The value in JSON's own types: names in camelCase, without members that are None, and numbers that JSON cannot
    express as strings.
    """
    if value is None or isinstance(value, str | int):
        return value
    if not isinstance(value, float) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return (
            value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        )
    if isinstance(value, Mapping):
        return {to_camel(str(name)): plain(member) for name, member in value.items() if member is not None}
    if isinstance(value, Sequence):
        return [plain(member) for member in value]
    return value if isinstance(value, int) else str(value)


def finite(value: float | None) -> float | None:
    """None for infinity and NaN, which ``/status`` cannot express; the log has them."""
    return None if value is None or not math.isfinite(value) else float(value)
