"""How long a process asks a store again that refuses its credentials, and a store of sources that does not answer either.

A refusal is often over in a moment: a key is being exchanged, a token has just expired, a clock is being set, the metadata server is not
ready in a fresh pod. So a process that opens a root or reads its sources asks again for some minutes, with a growing delay and with
credentials read anew. One `Patience` belongs to one process: a notice of preemption ends all its waits at once, and once it is used up no
store gets another wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 15.0
_FACTOR = 2.0
SOURCES = "sources"
"""Stands for all sources of data, where else the address of a root stands."""


class WaitStopped(Exception):
    """A notice to end came while the process waited."""


def delay_seconds(tries: int, left_seconds: float) -> float:
    """How long to wait before the next try. The last one comes when the time is just over.

    Args:
        tries: How many tries were refused, at least 1.
        left_seconds: How much time is left.
    """
    doublings = min(tries - 1, 10)  # more would be longer than the longest delay
    return max(0.0, min(FIRST_DELAY_SECONDS * _FACTOR**doublings, LONGEST_DELAY_SECONDS, left_seconds))


class Patience:
    """The patience of a process with all its stores.

    Args:
        seconds: From the first refusal of a request to its last try; 0: no wait.
        on_wait: Called once for each wait, when it begins, with the root or `SOURCES`, the failure, and how many seconds the wait may take.
        on_end: Called when the last wait is over, with its seconds and whether the store answers again.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        seconds: float,
        *,
        on_wait: Callable[[str, Exception, float], object] = lambda root, failure, seconds: None,
        on_end: Callable[[float, bool], object] = lambda seconds, answers: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._on_wait, self._on_end, self._clock = on_wait, on_end, clock
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._used_up = False
        self._waiting: dict[str, int] = {}

    def stop(self) -> None:
        """End all waits, now and later. For any thread."""
        self._over.set()

    close = stop

    def wait(self, root: str, failure: Exception, tries: int, began: float | None, *, announced: bool = True) -> float:
        """Wait before a request that was refused is tried again.

        Args:
            root: Whose request it was.
            failure: The refusal.
            tries: How many tries were refused.
            began: What the first wait of this request returned; None before the first.
            announced: False where the waits before this one were reported as over (`ended`), so that this one is announced anew.

        Returns:
            When the first try was refused, in seconds of the clock.

        Raises:
            WaitStopped: A notice to end came.
            Exception: `failure`, because there is no time left.
        """
        now = self._clock()
        first = now if began is None else began
        left = first + self._seconds - now
        if self._used_up or left <= 0:
            self._used_up = True
            raise failure
        if began is None or not announced:
            self._begin(root, failure, left)
        if self._over.wait(delay_seconds(tries, left)):
            raise WaitStopped
        return first

    def ended(self, root: str, began: float, *, answers: bool) -> None:
        """A request that had to wait is over, one way or the other."""
        with self._lock:
            self._waiting[root] -= 1
            if not self._waiting[root]:
                del self._waiting[root]
            last = not self._waiting
        if last:
            self._on_end(self._clock() - began, answers)

    def _begin(self, root: str, failure: Exception, seconds: float) -> None:
        with self._lock:
            first = root not in self._waiting
            self._waiting[root] = self._waiting.get(root, 0) + 1
        if first:
            self._on_wait(root, failure, seconds)
