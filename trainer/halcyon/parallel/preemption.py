"""Notices of preemption: SIGTERM to any process stops all of them at the same step.

Kubernetes says SIGTERM to one pod of a gang. If that process alone stopped, the others would hang in their next collective, so JAX's
preemption service spreads the notice through the coordination service and picks a step that every process will still reach, the
greatest of their steps plus one. A single process has no service and needs none: a signal handler is enough.

In both cases SIGTERM no longer ends the process. Whoever holds a `PreemptionNotice` must ask it after every step and leave on its own.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from jax.experimental import multihost_utils

from halcyon.parallel.world import World


class PreemptionNotice:
    """Has a notice arrived? The same answer at the same step on all processes.

    Create it in the main thread, once, after joining. Close it, or use it as a context manager, to give SIGTERM back.
    """

    def __init__(self, world: World) -> None:
        self._distributed = world.distributed
        self._arrived = threading.Event()
        self._previous = None if self._distributed else signal.signal(signal.SIGTERM, self._on_signal)

    def arrived(self, step: int) -> bool:
        """True when all processes must save and leave after `step`.

        Args:
            step: Steps done. Every process must ask at every step, beginning with the same one.
        """
        if self._distributed:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._arrived.is_set()

    def close(self) -> None:
        """Give SIGTERM back to whoever had it. JAX's own listener stays until the world is left."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def __enter__(self) -> PreemptionNotice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        self._arrived.set()
