"""Notices of preemption: SIGTERM to any process stops all of them at the same step.

Kubernetes says SIGTERM to one pod of a gang. If that process alone stopped, the others would hang in their next collective. So a process
that has a notice only says so: over the lifeline (see `halcyon.parallel.sync_point`) and at the next meeting (see
`halcyon.parallel.waiting`), and all leave together. JAX has a service for the same, which looks for the signal once a second and keeps the
time of its coming to itself; of the 15 seconds that a spot machine gives, that second is worth having, and the time is what decides
whether a save still fits.

SIGTERM no longer ends the process then. Whoever holds a `PreemptionNotice` must look at it and leave on its own.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType


class PreemptionNotice:
    """Whether this process was told to end, and when.

    Create it in the main thread, once, after joining. Close it, or use it as a context manager, to give SIGTERM back.

    Args:
        on_arrival: Is told in a thread of the notice's, within a moment.
        clock: Seconds, monotonic.
    """

    def __init__(self, on_arrival: Callable[[], object] = lambda: None, clock: Callable[[], float] = time.monotonic) -> None:
        self._on_arrival = on_arrival
        self._clock = clock
        self._arrived_at: float | None = None
        # Python runs signal handlers in the main thread, which may be inside of a long step. The byte that it writes here is immediate.
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        self._previous_wakeup = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="halcyon-notice", daemon=True)
        self._thread.start()

    @property
    def arrived(self) -> bool:
        """Whether a notice has come to this process."""
        return self._arrived_at is not None

    @property
    def age_seconds(self) -> float:
        """How long ago it came; 0 where none has."""
        return 0.0 if self._arrived_at is None else self._clock() - self._arrived_at

    def close(self) -> None:
        """Give SIGTERM back to whoever had it."""
        if self._writing.fileno() < 0:
            return
        signal.set_wakeup_fd(self._previous_wakeup)
        signal.signal(signal.SIGTERM, self._previous)
        self._writing.close()
        self._thread.join()
        self._reading.close()

    def __enter__(self) -> PreemptionNotice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> None:
        while signals := self._reading.recv(64):
            if signal.SIGTERM in signals:
                self._take()
                self._on_arrival()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._take()

    def _take(self) -> None:
        if self._arrived_at is None:
            self._arrived_at = self._clock()
