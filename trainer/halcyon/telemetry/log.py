"""The log: one JSON object a line on standard output, or lines for people, with a live one on a terminal."""

import threading
from dataclasses import asdict
from typing import Any, Protocol, TextIO

from halcyon.host.clock import Clock
from halcyon.telemetry.log_line import RunIdentity, encode_line
from halcyon_api.status.progress import Stage


class EventLog(Protocol):
    """A destination of events. A class that inherits it does nothing where it has no method of its own.

    Field names are snake_case in Python and camelCase in the output; fields that are None are omitted.
    """

    def event(self, name: str, **fields: Any) -> None:
        """Write one event."""

    def stage(self, stage: Stage) -> None:
        """Show what the process does now. It is no event."""

    def close(self) -> None:
        """Restore the state of the stream. Further events are allowed."""


class JsonLog(EventLog):
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


def open_log(
    stream: TextIO,
    identity: RunIdentity,
    *,
    steps: int | None,
    json_lines: bool | None = None,
) -> EventLog:
    """The log for a stream: lines for people on a terminal, JSON lines everywhere else.

    Args:
        stream: Standard output.
        identity: The process that writes.
        steps: Steps of the whole run; None for a run without steps.
        json_lines: True: always JSON lines. False: always lines for people. Default: these only on a terminal.
    """
    wants_json = not stream.isatty() if json_lines is None else json_lines
    if wants_json:
        return JsonLog(stream, identity)
    from halcyon.telemetry.progress_line import ProgressLine  # imports rich, which a pod does not need

    return ProgressLine(stream, identity.run, steps=steps, live=stream.isatty())
