"""Threads that prepare requests.

None can hold the end of the process, and a call that does not end is seen (``/ready``).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from queue import SimpleQueue
from typing import Any, TypeVar

from halcyon.serving.errors import draining, overloaded

Result = TypeVar("Result")

STUCK_SECONDS = 30.0
"""No valid request takes as long to prepare."""
_RETRY_SECONDS = 2


class Preparers:
    """Some threads that run calls, in their order.

    Args:
        name: Of the threads.
        count: Threads.
        waiting: Calls that may wait for a thread.
        clock: Seconds from any point.
    """

    def __init__(self, name: str, count: int, waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._waiting, self._clock = waiting, clock
        self._queue: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._began: dict[int, float] = {}
        """When each thread began the call that it runs."""
        self._threads = [
            threading.Thread(target=self._run, args=(index,), name=f"{name}-{index}", daemon=True)
            for index in range(count)
        ]
        self._closed = False
        for thread in self._threads:
            thread.start()

    async def run(self, call: Callable[[], Result]) -> Result:
        """The result of a call. If this is cancelled before the call has begun, it does not begin.

        Raises:
            ApiError: Too many calls wait, or the server ends.
        """
        if self._closed:
            raise draining()
        if self._queue.qsize() >= self._waiting:
            raise overloaded(_RETRY_SECONDS)
        done: Future[Result] = Future()
        self._queue.put((call, done))
        return await asyncio.wrap_future(done)

    @property
    def fault(self) -> str:
        """Why requests wait for ever; empty: they do not."""
        began = min(list(self._began.values()), default=None)
        seconds = 0.0 if began is None else self._clock() - began
        return f"a request has been prepared for {seconds:.0f} seconds" if seconds > STUCK_SECONDS else ""

    def close(self) -> None:
        """Take no more calls; those that wait are refused."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)

    def join(self, seconds: float) -> bool:
        """Wait for the threads after `close`. Returns whether they have ended."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, index: int) -> None:
        while (taken := self._queue.get()) is not None:
            call, done = taken
            if self._closed or not done.set_running_or_notify_cancel():
                with contextlib.suppress(InvalidStateError):
                    done.set_exception(draining())
                continue
            self._began[index] = self._clock()
            try:
                found = call()
            except BaseException as error:  # the thread must live
                done.set_exception(error)
                del error
            else:
                done.set_result(found)
                del found
            del self._began[index], call, done, taken
