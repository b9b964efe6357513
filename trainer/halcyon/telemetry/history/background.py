"""Hands the rows of a run to a thread of its own: the training loop never waits for it, and no error of it reaches the
loop.

The queue is bounded. If the thread is slower than the run, rows of steps are dropped and counted; every other row, of
which there are few, has room of its own.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

STEP = "step"
STEPS_WAITING = 8192
"""Rows of steps that may wait for the thread. At a millisecond a step, these are eight seconds."""
OTHERS_WAITING = 4096
"""Other rows that may wait for the thread."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a run: a step, an evaluation or another event of the log."""

    event: str
    """Name of the event (`halcyon.telemetry.events`), or ``watched`` for all numbers of a watched step."""
    time: float
    """Seconds since 1970."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Its fields, in snake_case as in Python."""
    report: object = None
    """What the loop reported, such as a `StepReport`, for listeners in the same thread; it is not kept."""


class Listener(Protocol):
    """Receives all rows of a run.

    A class that inherits it does nothing where it has no method of its own. Its methods never wait and never raise,
    except `close`, which waits for a bounded time.
    """

    def record(self, row: Row) -> None:
        """Take a row. For any thread."""

    def hurry(self) -> None:
        """Keep the rows so far soon: a checkpoint is being saved, and what comes after it may be lost.

        For any thread.
        """

    def close(self, seconds: float) -> None:
        """Keep the rows so far, within this number of seconds, and end."""


class Background:
    """A thread that receives rows in batches.

    Args:
        name: Name of the thread.
        take: Called in the thread with the rows since the last call, the oldest first; whether they are to be kept now;
            and whether this is the last call. It is called after `interval_seconds` even without rows. An exception
            ends the thread.
        on_error: Called once, in the thread, with the exception that ended it.
        interval_seconds: Longest time between two calls of `take`.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        name: str,
        take: Callable[[list[Row], bool, bool], None],
        on_error: Callable[[Exception], None],
        *,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._take, self._on_error = take, on_error
        self._interval, self._clock = interval_seconds, clock
        self._rows: deque[Row] = deque()
        self._steps = 0
        self._wake = threading.Condition()
        self._hurry = self._closing = self._ended = False
        self.dropped = 0
        """Rows that found no room in the queue."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def record(self, row: Row) -> None:
        """Queue a row."""
        is_step = row.event == STEP
        with self._wake:
            if self._ended or self._closing:
                return
            if (self._steps if is_step else len(self._rows) - self._steps) >= (
                STEPS_WAITING if is_step else OTHERS_WAITING
            ):
                self.dropped += 1
                return
            self._rows.append(row)
            self._steps += is_step
            if self._steps == STEPS_WAITING // 2:
                self._wake.notify()

    def hurry(self) -> None:
        """Hand over the rows so far, to be kept now."""
        with self._wake:
            self._hurry = True
            self._wake.notify()

    def close(self, seconds: float) -> None:
        """Hand over the rows so far, and wait for the end of the thread, at most this time."""
        with self._wake:
            self._hurry = self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while self._next():
                pass
        except Exception as error:
            self._on_error(error)
        finally:
            with self._wake:
                self._ended = True
                self._rows.clear()

    def _next(self) -> bool:
        with self._wake:
            deadline = self._clock() + self._interval
            while not self._hurry and self._steps < STEPS_WAITING // 2 and (left := deadline - self._clock()) > 0:
                self._wake.wait(left)
            rows, self._rows, self._steps = list(self._rows), deque(), 0
            now, last = self._hurry, self._closing
            self._hurry = last
        self._take(rows, now, last)
        return not last
