"""The caches of a run while it trains: one thread builds them, or follows the process that does, and others wait for what they need.

The thread is the only one that looks at the store for news: its own build tells it of every shard, and as a follower it looks twice a
second. If the builder dies, the thread takes over, as everywhere. Its knowledge is an immutable snapshot, so waiting threads look at it
without a lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from halcyon.data.cache.build import Built
from halcyon.data.cache.ensure import CacheKeeper, Caches
from halcyon.data.cache.ledger import Ledger
from halcyon.errors import Preempted


class Stopped(Exception):
    """The process ends: there is nothing more to wait for."""


class CacheProgress:
    """The progress of caches that are being built: one thread updates it, others wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._caches: Caches | None = None
        self._error: Exception | None = None
        self._on_failure: Callable[[Exception], object] | None = None

    @property
    def latest(self) -> Caches | None:
        """The caches as they were last seen; None before that."""
        return self._caches

    @property
    def caches(self) -> Caches:
        """The same, after they have been seen."""
        if self._caches is None:
            raise LookupError("no token cache has been seen yet")
        return self._caches

    def ledger(self, name: str) -> Ledger | None:
        """The ledger of a source as it was last seen; None before it was begun."""
        return None if self._caches is None else self._caches.ledgers.get(name)

    def update(self, caches: Caches) -> None:
        """Take the caches as they are now."""
        with self._changed:
            self._caches = caches
            self._changed.notify_all()

    def end(self, error: Exception) -> None:
        """There will be no more updates: the build failed, or the process ends."""
        with self._changed:
            first = self._error is None
            self._error = self._error or error
            self._changed.notify_all()
        if first and self._on_failure is not None and not isinstance(error, Stopped):
            self._on_failure(error)

    def on_failure(self, callback: Callable[[Exception], object]) -> None:
        """Call back at each failure from now on, at once, in the thread in which it happens.

        Raises:
            Exception: The build has failed already.
        """
        with self._changed:
            self._on_failure = callback
            self._raise()

    def wait_for(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until a condition on the caches holds; False: it did not within these seconds.

        Raises:
            Stopped: The process ends.
            Exception: What ended the build.
        """
        with self._changed:
            held = self._changed.wait_for(lambda: self._error is not None or condition(), seconds)
            self._raise()
            return held

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class BackgroundCaches:
    """The thread that has the caches of a run built.

    Args:
        keeper: Makes what builds or follows; asked in the thread.
        awaited: Given where the run may begin before the caches are whole; see `CacheKeeper`. The build then leaves it a processor.
    """

    def __init__(self, keeper: Callable[[], CacheKeeper], *, awaited: Mapping[str, int] | None) -> None:
        self.progress = CacheProgress()
        self._make_keeper = keeper
        self._awaited = awaited
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="halcyon-data-caches", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have the build end after the piece it is at. What is committed stays, and the lock is given back. Waits for nothing."""
        self._stop.set()
        self.progress.end(Stopped())

    def close(self, seconds: float = 5.0) -> None:
        """Stop, and wait for the end of the thread, but not for long: an end of the process takes its tokenizing processes with it."""
        self.stop()
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            keeper = self._make_keeper()
            report = keeper.report

            def report_unless_stopped(built: Built) -> None:
                self._pause(0)
                report(built)

            update = self.progress.update
            replace(keeper, awaited=self._awaited, report=report_unless_stopped, on_caches=update, pause=self._pause).ensure()
        except (Stopped, Preempted):
            return  # the process ends, and saves first
        except Exception as error:  # raised in the waiting threads, and passed to `CacheProgress.on_failure`
            self.progress.end(error)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped
