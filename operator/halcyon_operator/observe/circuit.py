"""Whether an endpoint is asked at all: one that has left several requests in a row unanswered is left alone for a while, then tried once.

A store that swallows requests costs the whole limit of each of them. All roots behind it share its circuit, so that an outage costs a few
requests, however many runs keep their checkpoints there. Any answer closes the circuit, a refusal too.
"""

from __future__ import annotations

from dataclasses import dataclass

SILENT_REQUESTS = 3
"""So many unanswered requests in a row open the circuit."""
FIRST_PAUSE_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 120.0
TRIAL_SECONDS = 10.0
"""For how long nobody else asks while one request tries an endpoint again; longer than any request takes."""


@dataclass
class Circuit:
    """What is known of one endpoint. Times are seconds of a monotonic clock.

    Attributes:
        answers: Whether the last request got an answer; False before the first one.
        silent: Requests in a row that got none.
        open_until: When a request may be made again.
    """

    answers: bool = False
    silent: int = 0
    open_until: float = 0.0

    def admits(self, now: float) -> bool:
        """Whether a request may be made now. After a pause a single one may, and the others wait for what it shows."""
        if self.silent < SILENT_REQUESTS:
            return True
        if now < self.open_until:
            return False
        self.open_until = now + TRIAL_SECONDS
        return True

    def answered(self) -> None:
        """A request got an answer."""
        self.answers, self.silent = True, 0

    def stayed_silent(self, now: float) -> None:
        """A request got no answer within its limit."""
        self.answers, self.silent = False, self.silent + 1
        if self.silent >= SILENT_REQUESTS:
            pauses = self.silent - SILENT_REQUESTS
            self.open_until = now + min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(pauses, 16))
