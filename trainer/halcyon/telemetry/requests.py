"""Requests while a run trains, for a checkpoint or a profile: over HTTP, by a signal, or by the calling program.

A request only sets a flag here, which the loop reads. A step carries the flag for a checkpoint to all processes, so
that all save at the same step. It stays set until a save begins, and is set again if that save fails. A profile is of
one process, and begins before its next step.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from halcyon_api.post_requests import (
    MAX_REMEMBERED_REQUESTS,
    USUAL_PROFILED_STEPS,
    ProfileRequestTaken,
    SaveRequestTaken,
)

RETRY_SECONDS = 30.0
"""Delay from a failed save to the next try of the same request."""


class _Signals:
    """Counts the signals that ask for something. Takes no lock, because the interrupted thread may hold it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._signals = self._signals_seen = 0

    def signalled(self, *_: object) -> None:
        """Request it from a signal handler."""
        self._signals += 1

    def _was_signalled(self) -> bool:
        """Whether a signal came since the last call."""
        signals = self._signals
        came, self._signals_seen = signals != self._signals_seen, signals
        return came


class SaveRequests(_Signals):
    """The requests, and whether a save is due for one. Safe for threads; `signalled` also for signal handlers.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._taken: OrderedDict[str, SaveRequestTaken] = OrderedDict()
        self._due = False
        self._saving = False
        self._not_before = -float("inf")

    def request(self, request: str = "", step: int = 0) -> SaveRequestTaken:
        """Request a checkpoint. A request with a remembered id (one of the last `MAX_REMEMBERED_REQUESTS`) changes
        nothing.

        Args:
            request: Id; empty: always a new request.
            step: Steps done now, as far as the caller knows.

        Returns:
            The request with the step of its first arrival.
        """
        with self._lock:
            if request in self._taken:
                return self._taken[request]
            self._due, self._not_before = True, -float("inf")
            if not request:
                return SaveRequestTaken(id="anonymous", step=step)
            self._taken[request] = taken = SaveRequestTaken(id=request, step=step)
            while len(self._taken) > MAX_REMEMBERED_REQUESTS:
                self._taken.popitem(last=False)
            return taken

    @property
    def wanted(self) -> bool:
        """Whether a save is due now."""
        with self._lock:
            if self._was_signalled():
                self._due, self._not_before = True, -float("inf")
            return self._due and self._clock() >= self._not_before

    def save_begun(self) -> None:
        """A save begins. It covers all requests so far."""
        with self._lock:
            self._saving = self._due
            self._due = False

    def failed(self) -> None:
        """The last save failed. The requests that it covered are due again after `RETRY_SECONDS`."""
        with self._lock:
            if self._saving and not self._due:
                self._due, self._not_before = True, self._clock() + RETRY_SECONDS

    @property
    def taken(self) -> tuple[SaveRequestTaken, ...]:
        """The last requests, oldest first."""
        with self._lock:
            return tuple(self._taken.values())


class ProfileRequests(_Signals):
    """The newest request that the loop has not taken yet. Safe for threads; `signalled` also for signal handlers."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: int | None = None

    def request(self, steps: int, step: int) -> ProfileRequestTaken:
        """Request a profile of the next steps. A request before the loop has taken the last one replaces it.

        Args:
            steps: Number of steps to profile.
            step: Steps done now.
        """
        with self._lock:
            self._steps = steps
        return ProfileRequestTaken(step=step, steps=steps)

    def take(self) -> int | None:
        """The number of steps to profile now, if that was requested since the last call."""
        with self._lock:
            steps, self._steps = self._steps, None
            return steps or USUAL_PROFILED_STEPS if self._was_signalled() else steps
