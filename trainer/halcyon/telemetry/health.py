"""The health of a trainer, decided by the time since a step or a stage last ended.

A hung collective looks like work: the process runs and the device is busy, but no step ends. So while a run trains, it
is healthy only if steps end within a limit, which is computed from earlier steps of the same size. A step of a new size
may wait for the compilation of its program, so it has the same limit as the first step. Time in which the machine was
paused, or in which the process retries a store that denies access, does not count. Every other stage has a generous
limit of its own: the durations of compilation, restore and join vary much, and their failures raise errors of their
own.

The kubelet kills a process whose ``/healthz`` fails, but then nobody learns where it hung. So `Watchdog` polls the same
verdict and, before the kubelet acts, writes the stacks of all threads to the log and below the checkpoint root. The
processes of a process group hang together: one does not reach a collective, and the others wait in it. Their limits
differ, because each has measured its own steps. So the first that hangs tells the others, which write their stacks too.
It then waits until they have had time for this, because its end also ends the others.
"""

import contextlib
import faulthandler
import math
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from halcyon.host.storage.files import begin
from halcyon.telemetry.stages import STAGES
from halcyon_api.status.progress import Stage

POLL_SECONDS = 1.0
LATE_SECONDS = 1.0
"""A poll that is later than this means that the whole process was paused, so no step could end either."""
FLOOR_SECONDS = 60.0
"""The smallest limit of a step, unless a run has another one: every machine pauses now and then."""
CEILING_SECONDS = 3600.0
"""The largest limit of a step, unless the smallest one is larger."""
FACTOR = 10.0
"""The limit of a step is this times the 99th percentile of the recorded steps of the same size."""
EXIT_DELAY_SECONDS = 3.0
"""Time that a process waits after writing its stacks, so that the others can write theirs."""
STORE_SECONDS = 10.0
"""Longest time for writing to the checkpoint root."""
StoreStacks = Callable[[str], str]
"""Stores stacks and returns their address."""


@dataclass(frozen=True)
class Health:
    """The verdict on a process."""

    healthy: bool
    idle_seconds: float
    """Time since a step or a stage last ended, without pauses."""
    limit_seconds: float
    """Limit of `idle_seconds`; above it the process is not healthy."""
    message: str
    """One sentence for people."""


def step_limit_seconds(step_seconds: Sequence[float], floor_seconds: float) -> float:
    """The limit of a step: a multiple of the 99th percentile (nearest rank) of the durations so far, between floor and
    ceiling.
    """
    ranked = sorted(step_seconds)
    percentile = ranked[math.ceil(0.99 * len(ranked)) - 1] if ranked else 0.0
    return min(max(floor_seconds, FACTOR * percentile), max(floor_seconds, CEILING_SECONDS))


def judge(
    stage: Stage,
    stage_began: float,
    last_step_ended: float | None,
    step_seconds: Sequence[Sequence[float]],
    now: float,
    floor_seconds: float,
    *,
    paused_seconds: float = 0.0,
    waits_until: float | None = None,
) -> Health:
    """Decide whether the trainer is healthy. Times are of one monotonic clock, in seconds.

    Args:
        stage: Stage of the process.
        stage_began: When it began.
        last_step_ended: When the last step ended; None before the first.
        step_seconds: For each size of the steps that may be in progress, durations of the last steps of that size, in
            any order; empty for a new size.
        now: The time of the verdict.
        floor_seconds: The smallest limit of a step.
        paused_seconds: Time that the machine was paused since a step or a stage last ended.
        waits_until: End of the retries of a store that denies access; None: there are no such retries.
    """
    began = stage_began
    if stage != "training":
        limit = STAGES[stage].limit_seconds
        what = f"{stage} for"
    elif last_step_ended is None:
        # The first step traces and compiles, also in the stage ``training``.
        limit = STAGES["compiling"].limit_seconds
        what = "no first step for"
    else:
        began = max(began, last_step_ended)
        new_size = not step_seconds or not all(step_seconds)
        limit = (
            STAGES["compiling"].limit_seconds
            if new_size
            else max(step_limit_seconds(seconds, floor_seconds) for seconds in step_seconds)
        )
        what = "no step of a new size ended for" if new_size else "no step ended for"
    if waits_until is not None:
        began = max(began, min(now, waits_until))
    idle = max(0.0, now - began - paused_seconds)
    healthy = idle <= limit
    bound = "no limit" if math.isinf(limit) else f"limit {limit:.1f} s"
    return Health(healthy, idle, limit, f"{'ok' if healthy else 'stalled'}: {what} {idle:.1f} s, {bound}")


@dataclass
class Watchdog:
    """Polls the health of its process, in a thread, until it is closed or the process hangs."""

    health: Callable[[], Health]
    """The verdict of ``/healthz``."""
    on_hung: Callable[[Health, str, str | None], object]
    """Called when the process hangs, with the health, the stacks, and the address of the stored stacks, or None."""
    store_stacks: StoreStacks | None
    """Stores the stacks; may take long and may fail."""
    end: Callable[[str], object]
    """Must end the process; gets one sentence with the reason."""
    poll_seconds: float = POLL_SECONDS
    """Seconds between two polls."""
    exit_delay_seconds: float = EXIT_DELAY_SECONDS
    """See `EXIT_DELAY_SECONDS`."""
    on_pause: Callable[[float], object] = lambda seconds: None
    """Called with the seconds in which this process did not run: it was stopped, or its machine was suspended or busy.
    """
    late_seconds: float = LATE_SECONDS
    """A poll that is late by at most this is no pause."""
    clock: Callable[[], float] = time.monotonic
    """Seconds, monotonic."""

    def __post_init__(self) -> None:
        self._tell: Callable[[], object] = lambda: None
        self._closed, self._other_hangs = threading.Event(), threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="halcyon-watchdog", daemon=True)
        self._thread.start()

    def tell(self, others: Callable[[], object]) -> None:
        """Set the function that tells the other processes that this one hangs."""
        self._tell = others

    def other_hangs(self) -> None:
        """Write the stacks now, once, because another process hangs. Its end will end this process. For any thread."""
        self._other_hangs.set()
        self._wake.set()

    def close(self) -> None:
        """Stop polling."""
        self._closed.set()
        self._wake.set()

    def _watch(self) -> None:
        polled, path = self.clock(), None
        written = False
        while True:
            self._wake.wait(self.poll_seconds)
            if self._closed.is_set():
                return
            self._wake.clear()
            late = self.clock() - polled - self.poll_seconds
            if late > self.late_seconds:
                self.on_pause(late)
            health = self.health()
            polled = self.clock()
            with contextlib.suppress(Exception):  # the process must end though its machine has no file or memory left
                if not health.healthy:
                    self._tell()  # before the stacks are stored, which may take long
                if not written and (self._other_hangs.is_set() or not health.healthy):
                    written = True
                    stacks = all_stacks()
                    path = self._stored(stacks)
                    self.on_hung(health, stacks, path)
            if health.healthy:
                continue
            where = f"the stacks of its threads are in {path}" if path else "the stacks of its threads are in its log"
            if not self._closed.wait(self.exit_delay_seconds):
                self.end(f"{health.message.removeprefix('stalled: ')}; {where}")
            return

    def _stored(self, stacks: str) -> str | None:
        """Store the stacks; None if that fails or takes too long, because the store itself may hang."""
        if self.store_stacks is None:
            return None
        store = self.store_stacks
        with contextlib.suppress(Exception):  # best effort: the log has the stacks
            return begin(lambda: store(stacks), name="halcyon-watchdog-store").result(STORE_SECONDS)
        return None


def all_stacks() -> str:
    """The Python stacks of all threads, innermost call first."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
