"""Limits the retries of requests to a store that denies access, and to a store of sources that does not answer.

A denial often ends soon: a key is being rotated, a token has just expired, a clock is being set, or the metadata server
is not ready in a fresh pod. So a process that opens a root or reads its sources retries for some minutes, with a
growing delay, and reads the credentials again. A process has one `RetryBudget`: a preemption notice ends all its waits
at once, and after its time is used up no store gets another retry.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 15.0
_FACTOR = 2.0
SOURCES = "sources"
"""Used for all sources of data, in place of the address of a root."""


class WaitStopped(Exception):
    """A preemption notice came while the process waited."""


def delay_seconds(tries: int, left_seconds: float) -> float:
    """Delay before the next try. The last try is at the end of the time.

    Args:
        tries: Number of failed tries, at least 1.
        left_seconds: Remaining time for retries.
    """
    doublings = min(tries - 1, 10)  # more doublings exceed the longest delay
    return max(0.0, min(FIRST_DELAY_SECONDS * _FACTOR**doublings, LONGEST_DELAY_SECONDS, left_seconds))


@dataclass(eq=False)
class RetryBudget:
    """The retries of a process, for all its stores.

    Args:
        seconds: Time from the first failure of a request to its last try; 0: no retries.
        on_wait: Called when the first request to a store begins to wait, with the root or `SOURCES`, the failure, and
            the longest duration of the wait in seconds.
        on_end: Called when no request waits any more, with the duration in seconds of the last one's wait and whether
            its store answers again.
        clock: Seconds, monotonic.
    """

    seconds: float
    on_wait: Callable[[str, Exception, float], object] = lambda root, failure, seconds: None
    on_end: Callable[[float, bool], object] = lambda seconds, answers: None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._used_up = False
        self._waiting: dict[str, int] = {}

    def stop(self) -> None:
        """End all present and future waits. For any thread."""
        self._over.set()

    close = stop

    def wait(self, root: str, failure: Exception, tries: int, began: float | None, *, announced: bool = True) -> float:
        """Wait before the retry of a failed request.

        Args:
            root: Address of the root, or `SOURCES`.
            failure: The error of the last try.
            tries: Number of failed tries.
            began: Return value of the first wait of this request; None before the first wait.
            announced: False if the earlier waits were already reported as over (`ended`), so that this wait calls
                `on_wait` again.

        Returns:
            Time of the first failure, in seconds of the clock.

        Raises:
            WaitStopped: A preemption notice came.
            Exception: `failure`, if no time is left.
        """
        now = self.clock()
        first = now if began is None else began
        left = self.seconds - (now - first)
        if self._used_up or left <= 0:
            self._used_up = True
            raise failure
        if began is None or not announced:
            self._begin(root, failure, left)
        if self._over.wait(delay_seconds(tries, left)):
            raise WaitStopped
        return first

    def end_wait(self, root: str, began: float, *, answers: bool) -> None:
        """Record that a request that waited has ended, with or without success."""
        with self._lock:
            self._waiting[root] -= 1
            if not self._waiting[root]:
                del self._waiting[root]
            last = not self._waiting
        if last:
            self.on_end(self.clock() - began, answers)

    def _begin(self, root: str, failure: Exception, seconds: float) -> None:
        with self._lock:
            first = root not in self._waiting
            self._waiting[root] = self._waiting.get(root, 0) + 1
        if first:
            self.on_wait(root, failure, seconds)
