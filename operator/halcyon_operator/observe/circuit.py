"""A circuit breaker for an endpoint: after several requests without an answer it pauses, then allows one trial request.

A store that never answers costs the whole timeout of each request. All roots in a store share its circuit, so an outage
costs a few requests, independent of the number of runs. Any answer closes the circuit, even a rejection."""

from __future__ import annotations

from dataclasses import dataclass

SILENT_REQUESTS = 3
"""Unanswered requests in a row that open the circuit."""
FIRST_PAUSE_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 120.0
TRIAL_SECONDS = 10.0
"""Time for the one trial request, in which no other is made. Longer than the timeout of a request."""


@dataclass
class Circuit:
    """The circuit of one endpoint. Times are seconds of a monotonic clock.

    Attributes:
        answers: Whether the last request got an answer; False before the first request.
        silent: Unanswered requests in a row.
        open_until: When a request may be made again.
    """

    answers: bool = False
    silent: int = 0
    open_until: float = 0.0

    def admits(self, now: float) -> bool:
        """Whether a request may be made now. After a pause only one request may, and the others wait for its result."""
        if self.silent < SILENT_REQUESTS:
            return True
        if now < self.open_until:
            return False
        self.open_until = now + TRIAL_SECONDS
        return True

    def answered(self) -> None:
        """Record that a request got an answer."""
        self.answers, self.silent = True, 0

    def stayed_silent(self, now: float) -> None:
        """Record that a request got no answer within its time limit."""
        self.answers, self.silent = False, self.silent + 1
        if self.silent >= SILENT_REQUESTS:
            pauses = self.silent - SILENT_REQUESTS
            self.open_until = now + min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(pauses, 16))
