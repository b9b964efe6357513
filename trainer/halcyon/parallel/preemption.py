"""Preemption notices: SIGTERM to any process stops all processes at the same step.

Kubernetes sends SIGTERM to one pod of a run. If only that process stopped, the others would hang in their next
collective. So a process with a notice only reports it, over the lifeline (see `halcyon.parallel.sync_point`) and at the
next collective wait (`wait_together`), and all processes stop together. JAX has a service for this, but
it polls for the signal once a second and does not report when the signal arrived. A spot machine gives 15 seconds, so
one second matters, and the arrival time decides whether a save still fits.

An interrupt from the keyboard (SIGINT) is a notice too, because a user who stops a run wants to keep its steps. A
second interrupt asks to stop at once.

While a `PreemptionNotice` is open, neither signal ends the process: its owner must check the notice and stop.

A step needs all processes. If one process waited for its data alone, the others would already be inside the step, and
after a notice they could not stop at the same step. So before such a step the processes exchange in `wait_together`
whether each has its data and whether it has a notice. They continue when all have their data, or stop together when any
has a notice. Between two exchanges each process waits for its own data.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from halcyon.host.signals import SignalThread, ending_signals
from halcyon.parallel.process_group import ProcessGroup

ROUND_SECONDS = 0.5


@dataclass
class PreemptionNotice:
    """Receives the preemption notice of this process and records its time.

    Create it in the main thread, once, after `join`. Close it, or use it as a context manager, to restore the earlier
    signal handlers.
    """

    on_arrival: Callable[[], object] = lambda: None
    """Called at once for each notice, in a separate thread."""
    on_interrupt: Callable[[int], object] = lambda count: None
    """Called in the same thread for each interrupt from the keyboard, with the number of interrupts so far."""
    _interrupts: int = 0
    _arrived_at: float | None = None

    def __post_init__(self) -> None:
        self._kinds = ending_signals()
        self._signals = SignalThread(self._kinds, self._received, name="halcyon-notice", handler=self._on_signal)

    @property
    def arrived(self) -> bool:
        """Whether a notice has come to this process."""
        return self._arrived_at is not None

    @property
    def age_seconds(self) -> float:
        """Seconds since the notice arrived; 0 without a notice."""
        return 0.0 if self._arrived_at is None else time.monotonic() - self._arrived_at

    def close(self) -> None:
        """Restore the earlier signal handlers."""
        self._signals.close()

    def __enter__(self) -> PreemptionNotice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _received(self, signals: bytes) -> None:
        interrupts = signals.count(signal.SIGINT) if signal.SIGINT in self._kinds else 0
        if signal.SIGTERM in signals or interrupts:
            self._take()
            self.on_arrival()
        for _ in range(interrupts):
            self._interrupts += 1
            self.on_interrupt(self._interrupts)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._take()

    def _take(self) -> None:
        if self._arrived_at is None:
            self._arrived_at = time.monotonic()


def wait_together(processes: ProcessGroup, notice: PreemptionNotice, mine: Callable[[float], bool]) -> bool:
    """Wait until all processes have their data. A collective, for the main thread.

    Args:
        processes: The processes.
        notice: This process's notice.
        mine: Waits at most this number of seconds, and returns whether this process has its data.

    Returns:
        False if a notice came first: all processes must stop.
    """
    while True:
        missing, noticed = processes.greatest(0.0 if mine(ROUND_SECONDS) else 1.0, float(notice.arrived))
        if not missing:
            return True
        if noticed:
            return False
