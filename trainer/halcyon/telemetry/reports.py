"""What all reports share: the state of the run, the lock of its threads, and the log."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from halcyon.history.background import Listener, Row
from halcyon.telemetry.clock import Clock, microseconds
from halcyon.telemetry.events import BY_NAME
from halcyon.telemetry.log import EventLog, RunIdentity
from halcyon.telemetry.run_state import RunState


class Reports:
    """The base of the groups of reports, which are the methods of `RunReporter`.

    Args:
        identity: The process that reports.
        log: The log of events.
        clock: Sources of time.
        run: What the process knows of its run.
    """

    def __init__(self, identity: RunIdentity, log: EventLog, clock: Clock, run: RunState) -> None:
        self.identity = identity
        self.log = log
        self._clock = clock
        self._run = run
        self._lock = threading.Lock()
        self._listeners: tuple[Listener, ...] = ()

    def listen(self, listener: Listener) -> None:
        """Pass all events from now on to a listener too, and the numbers of every step. For process 0."""
        self._listeners = (*self._listeners, listener)

    def close_listeners(self, seconds: float) -> None:
        """End the listeners. All of them together have this number of seconds to keep what they have received."""
        deadline = self._clock.monotonic() + seconds
        for listener in self._listeners:
            listener.close(0.0)  # all of them begin with it now
        for listener in self._listeners:
            listener.close(max(0.0, deadline - self._clock.monotonic()))
        self._listeners = ()

    def _count(self, **more: float) -> None:
        """Add to the counts of `Tallies`, with the lock held."""
        tallies = self._run.facts.tallies
        self._run.facts.tallies = replace(tallies, **{name: getattr(tallies, name) + number for name, number in more.items()})

    def _event(self, name: str, **fields: Any) -> None:
        """Write a line of the log, without the lock: it may block."""
        if self.identity.process_index == 0 or BY_NAME[name].every_process:
            self.log.event(name, **fields)
        if name != "step":
            self._tell(name, fields)

    def _tell(self, name: str, fields: dict[str, Any]) -> None:
        """Pass an event to the listeners, which do not wait."""
        if self._listeners:
            row = Row(name, self._clock.wall(), fields)
            for listener in self._listeners:
                listener.record(row)

    def _compiled(self, step: int, startup: dict[str, float]) -> None:
        """Write the line about the end of the first step, with the parts of the start."""
        self._event("compiled", step=step, **{f"{part}_seconds": seconds for part, seconds in startup.items()})

    def _seconds_in_stage(self) -> float:
        with self._lock:
            return microseconds(max(0.0, self._clock.monotonic() - self._run.facts.stage_began))
