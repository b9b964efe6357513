"""Requests for a checkpoint that come from outside while a run trains: over HTTP, by a signal, or by the program that calls `train`.

A request only sets a flag here. The loop reads it when it hands out a step and lets it travel to all processes with that step, so all
of them save at the same one. A note stays until a save has begun after it, and comes back when that save failed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from halcyon_api.save_requests import MAX_REMEMBERED_REQUESTS, SaveRequestTaken

RETRY_SECONDS = 30.0
"""How long after a failed save the same request is tried again."""


class SaveRequests:
    """What was asked for, and whether a save is still owed. Safe for threads; `signalled` also for signal handlers.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._taken: OrderedDict[str, SaveRequestTaken] = OrderedDict()
        self._owed = False
        self._saving = False
        self._not_before = -float("inf")
        self._signals = 0
        self._signals_seen = 0

    def ask(self, request: str = "", step: int = 0) -> SaveRequestTaken:
        """Ask for a checkpoint soon. A request whose id was seen before asks for nothing more.

        Args:
            request: Id; empty: asks in any case.
            step: Steps done, as far as the asker knows.

        Returns:
            The request with the step at which it first came.
        """
        with self._lock:
            if request in self._taken:
                return self._taken[request]
            self._owed, self._not_before = True, -float("inf")
            if not request:
                return SaveRequestTaken(id="anonymous", step=step)
            self._taken[request] = taken = SaveRequestTaken(id=request, step=step)
            while len(self._taken) > MAX_REMEMBERED_REQUESTS:
                self._taken.popitem(last=False)
            return taken

    def signalled(self, *_: object) -> None:
        """Ask from a signal handler, which may have interrupted a thread that holds the lock."""
        self._signals += 1

    @property
    def wanted(self) -> bool:
        """Whether a save should begin."""
        with self._lock:
            if self._signals != self._signals_seen:
                self._signals_seen = self._signals
                self._owed, self._not_before = True, -float("inf")
            return self._owed and self._clock() >= self._not_before

    def begun(self) -> None:
        """A save of all that is done begins."""
        with self._lock:
            self._saving = self._owed
            self._owed = False

    def failed(self) -> None:
        """The last save failed: what it would have served is owed again, after a while."""
        with self._lock:
            if self._saving and not self._owed:
                self._owed, self._not_before = True, self._clock() + RETRY_SECONDS

    @property
    def taken(self) -> tuple[SaveRequestTaken, ...]:
        """The last requests, oldest first."""
        with self._lock:
            return tuple(self._taken.values())
