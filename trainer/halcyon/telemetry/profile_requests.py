"""Requests for a profile while a run trains: over HTTP or by a signal. The loop reads them before each step."""

from __future__ import annotations

from threading import Lock

from halcyon_api.profile_requests import USUAL_PROFILED_STEPS, ProfileRequestTaken


class ProfileRequests:
    """The newest request that the loop has not taken yet. Safe for threads; `signalled` also for signal handlers."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._steps: int | None = None
        self._signals = 0
        self._signals_seen = 0

    def request(self, steps: int, step: int) -> ProfileRequestTaken:
        """Request a profile of the next steps. A request before the loop has taken the last one replaces it.

        Args:
            steps: Number of steps to profile.
            step: Steps done now.
        """
        with self._lock:
            self._steps = steps
        return ProfileRequestTaken(step=step, steps=steps)

    def signalled(self, *_: object) -> None:
        """Request a profile from a signal handler. Takes no lock, because the interrupted thread may hold it."""
        self._signals += 1

    def take(self) -> int | None:
        """The number of steps to profile now, if that was requested since the last call."""
        if self._steps is None and self._signals == self._signals_seen:
            return None
        with self._lock:
            steps, self._steps = self._steps, None
            if self._signals != self._signals_seen:
                self._signals_seen = self._signals
                steps = steps or USUAL_PROFILED_STEPS
            return steps
