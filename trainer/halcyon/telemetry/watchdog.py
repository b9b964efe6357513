"""Ends a process in which nothing ends any more, and keeps what its threads were doing.

The kubelet kills a process whose ``/healthz`` fails, too, but from outside: what hung, and where, dies with it. So the same verdict is
asked for here, and before the kubelet's patience is over the stacks of all threads are written to the log and below the checkpoint root.
The processes of a world hang together, each in the collective that the one at fault does not come to. The first to end takes the others
with it, so each waits a moment for the stacks of all.
"""

from __future__ import annotations

import faulthandler
import tempfile
import threading
import time
from collections.abc import Callable

from halcyon.telemetry.health import Health

LOOK_SECONDS = 1.0
LATE_SECONDS = 1.0
"""A look that is this late means that the whole process got no time, so that no step could end either."""
PATIENCE_SECONDS = 3.0
"""How long a process waits, with its stacks written, for the others to write theirs: they look once a second."""
STORE_SECONDS = 10.0
"""How long writing to the checkpoint root may take."""

Keep = Callable[[str], str]
"""Writes stacks to a lasting place and says where."""


class Watchdog:
    """Looks at the health of its process, in a thread, until it is closed or the process is hung.

    Args:
        health: The verdict of ``/healthz``.
        tell: Called with the health, the stacks, and where they were kept, None where they were not.
        keep: Writes the stacks to a lasting place; may take long and may fail.
        end: Must end the process; is given one sentence.
        look_seconds: How often to look.
        on_pause: Called with the seconds in which this process did not run: it was stopped, or its machine stood still or was busy.
        late_seconds: A look that is late by less is no pause.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        health: Callable[[], Health],
        tell: Callable[[Health, str, str | None], object],
        keep: Keep | None,
        end: Callable[[str], object],
        *,
        look_seconds: float = LOOK_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        store_seconds: float = STORE_SECONDS,
        on_pause: Callable[[float], object] = lambda seconds: None,
        late_seconds: float = LATE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_pause, self._late_seconds, self._clock = on_pause, late_seconds, clock
        self._health, self._tell, self._keep, self._end = health, tell, keep, end
        self._look_seconds, self._patience_seconds, self._store_seconds = look_seconds, patience_seconds, store_seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="halcyon-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _watch(self) -> None:
        looked = self._clock()
        while not self._closed.wait(self._look_seconds):
            late = self._clock() - looked - self._look_seconds
            if late > self._late_seconds:
                self._on_pause(late)
            health = self._health()
            looked = self._clock()
            if health.healthy:
                continue
            stacks = all_stacks()
            path = self._kept(stacks)
            self._tell(health, stacks, path)
            where = f"what its threads were doing is in {path}" if path else "what its threads were doing is in its log"
            if not self._closed.wait(self._patience_seconds):
                self._end(f"{health.message.removeprefix('stalled: ')}; {where}")
            return

    def _kept(self, stacks: str) -> str | None:
        """Keep the stacks, if that works in time: a store may be what hangs."""
        if self._keep is None:
            return None
        kept: list[str] = []

        def work() -> None:
            try:
                kept.append(self._keep(stacks) if self._keep else "")
            except Exception:  # best effort: the log has them
                return

        thread = threading.Thread(target=work, name="halcyon-watchdog-store", daemon=True)
        thread.start()
        thread.join(self._store_seconds)
        return kept[0] if kept else None


def all_stacks() -> str:
    """The Python stacks of all threads, innermost call first."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
