"""Notices of preemption: SIGTERM to any process stops all of them at the same step.

Kubernetes says SIGTERM to one pod of a gang. If that process alone stopped, the others would hang in their next collective. So a process
that has a notice only says so: over the lifeline (see `halcyon.parallel.sync_point`) and at the next meeting (see
`halcyon.parallel.waiting`), and all leave together. JAX has a service for the same, which looks for the signal once a second and keeps the
time of its coming to itself; of the 15 seconds that a spot machine gives, that second is worth having, and the time is what decides
whether a save still fits.

An interrupt from the keyboard (SIGINT) is a notice too, because a person who stops a run wants its steps kept. A second one means at once.

Neither signal ends the process then. The holder of a `PreemptionNotice` must look at it and leave on its own.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType


class PreemptionNotice:
    """Whether a notice to end came to this process, and when.

    Create it in the main thread, once, after joining. Close it, or use it as a context manager, to give SIGTERM back.

    Args:
        on_arrival: Called at a notice, at once, in a thread of its own.
        clock: Seconds, monotonic.
        on_interrupt: Called in the same thread at each interrupt from the keyboard, with the number of interrupts.
    """

    def __init__(
        self,
        on_arrival: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        on_interrupt: Callable[[int], object] = lambda count: None,
    ) -> None:
        self._on_arrival = on_arrival
        self._on_interrupt = on_interrupt
        self._interrupts = 0
        self._clock = clock
        self._arrived_at: float | None = None
        # Python runs signal handlers in the main thread, which may be inside of a long step. The byte that it writes here is immediate.
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        # A shell that starts a process in the background has SIGINT ignored, and it stays so.
        kinds = (signal.SIGTERM, *((signal.SIGINT,) if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN else ()))
        self._previous = {kind: signal.signal(kind, self._on_signal) for kind in kinds}
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
        """Give the signals back to their earlier handlers."""
        if self._writing.fileno() < 0:
            return
        signal.set_wakeup_fd(self._previous_wakeup)
        for kind, handler in self._previous.items():
            signal.signal(kind, handler)
        self._writing.close()
        self._thread.join()
        self._reading.close()

    def __enter__(self) -> PreemptionNotice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self) -> None:
        while signals := self._reading.recv(64):
            interrupts = signals.count(signal.SIGINT) if signal.SIGINT in self._previous else 0
            if signal.SIGTERM in signals or interrupts:
                self._take()
                self._on_arrival()
            for _ in range(interrupts):
                self._interrupts += 1
                self._on_interrupt(self._interrupts)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._take()

    def _take(self) -> None:
        if self._arrived_at is None:
            self._arrived_at = self._clock()
