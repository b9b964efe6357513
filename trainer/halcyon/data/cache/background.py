"""The caches of a run while it trains: one thread builds them or follows the process that builds them; other threads
wait for shards.

Only this thread reads the state of the caches. While it builds, it gets every new shard from its own build; while it
follows, it polls the store twice a second. If the builder dies, the thread can take over the build (see `election`).
The state is an immutable snapshot, so waiting threads read it without a lock.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from halcyon.data.cache.ensure import CacheKeeper, Caches
from halcyon.host.errors import Preempted
from halcyon_api.status.sources import Built


class Stopped(Exception):
    """The process ends, so the wait ends."""


class CacheProgress:
    """The progress of caches that are being built: one thread updates it, others wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.latest: Caches | None = None
        """The latest state of the caches; None before the first."""
        self._error: Exception | None = None
        self._on_failure: Callable[[Exception], object] | None = None

    @property
    def caches(self) -> Caches:
        """The latest state of the caches.

        Raises:
            LookupError: There is none yet.
        """
        if self.latest is None:
            raise LookupError("no token cache has been seen yet")
        return self.latest

    def update(self, caches: Caches) -> None:
        """Set the latest state and notify the waiting threads."""
        with self._changed:
            self.latest = caches
            self._changed.notify_all()

    def end(self, error: Exception) -> None:
        """End the updates, because the build failed or the process ends. Waiting threads raise the first such error."""
        with self._changed:
            first = self._error is None
            self._error = self._error or error
            self._changed.notify_all()
        if first and self._on_failure is not None and not isinstance(error, Stopped):
            self._on_failure(error)

    def on_failure(self, callback: Callable[[Exception], object]) -> None:
        """Set a function that is called with the first failure of the build, immediately and in the thread that fails.

        Raises:
            Exception: The error of a build that has already failed.
        """
        with self._changed:
            self._on_failure = callback
            self._raise()

    def wait_for(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until a condition on the caches holds. Returns False if it does not hold within ``seconds``.

        Raises:
            Stopped: The process ends.
            Exception: The error that ended the build.
        """
        with self._changed:
            held = self._changed.wait_for(lambda: self._error is not None or condition(), seconds)
            self._raise()
            return held

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class BackgroundCaches:
    """The thread that builds the caches of a run, or follows their build.

    Args:
        keeper: Makes the `CacheKeeper`; called in the thread.
        portion_tokens: Given if the run may begin before the caches are complete; see `CacheKeeper`. The build then
            leaves one processor to the run.
    """

    def __init__(self, keeper: Callable[[], CacheKeeper], *, portion_tokens: Mapping[str, int] | None) -> None:
        self.progress = CacheProgress()
        self._make_keeper = keeper
        self._portion_tokens = portion_tokens
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="halcyon-data-caches", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the build after its current piece, without waiting. Committed shards stay, and the lock is released."""
        self._stop.set()
        self.progress.end(Stopped())

    def close(self, seconds: float = 5.0) -> None:
        """Stop, and wait at most ``seconds`` for the thread.

        A longer wait is not needed: tokenizing processes end with this process.
        """
        self.stop()
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            keeper = self._make_keeper()
            report = keeper.report

            def report_unless_stopped(built: Built) -> None:
                self._pause(0)
                report(built)

            replace(
                keeper,
                portion_tokens=self._portion_tokens,
                report=report_unless_stopped,
                on_caches=self.progress.update,
                pause=self._pause,
            ).ensure()
        except (Stopped, Preempted):
            return  # the process ends, and makes its last save first
        except Exception as error:  # raised in the waiting threads, and passed to `CacheProgress.on_failure`
            self.progress.end(error)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped
