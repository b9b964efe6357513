"""A work queue of keys for level-triggered controllers in asyncio.

Kopf delivers events by object but has no queue that several kinds of objects share. This queue works like the work
queues of Go controllers: a waiting key is not added twice, a key that is being processed waits until that is done, a
key can be added for later, and a failed key returns after a delay that doubles, with a random part so that many keys do
not return at once.

Keys of different groups take turns: a group with a thousand waiting keys delays the only key of another group by at
most one key."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 60.0
_LARGEST_EXPONENT = 16


class WorkQueue(Generic[K]):
    """Keys that wait for work. Not thread-safe: all calls come from one event loop.

    Args:
        random: Numbers between 0 and 1.
        group: The group of a key. Groups take turns; by default all keys are in one group.
    """

    def __init__(self, random: Callable[[], float], group: Callable[[K], Hashable] = lambda key: None) -> None:
        self._random = random
        self._group = group
        self._ready: OrderedDict[Hashable, deque[K]] = OrderedDict()
        """The waiting keys by group; the groups are in the order of their turns."""
        self._filled = asyncio.Semaphore(0)
        self._waiting: set[K] = set()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def scheduled(self) -> int:
        """Number of keys that are due later."""
        return len(self._timers)

    def add(self, key: K) -> None:
        """Add a key, to be processed as soon as possible."""
        self._cancel_timer(key)
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.setdefault(self._group(key), deque()).append(key)
            self._filled.release()

    def add_after(self, key: K, seconds: float) -> None:
        """Add a key, to be processed after some seconds, unless it is already due earlier."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer and timer.when() <= due:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_at(due, self.add, key)

    def add_failed(self, key: K, at_least: float = 0.0) -> float:
        """Add a failed key again, after a growing delay of at least `at_least` seconds.

        Returns:
            The delay in seconds.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(failures, _LARGEST_EXPONENT))
        # Never earlier than requested; the random part spreads keys that failed at the same time.
        delay = max(delay * (0.5 + 0.5 * self._random()), at_least * (1.0 + 0.5 * self._random()))
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: K) -> None:
        """Reset the failures of a key."""
        self._failures.pop(key, None)

    def forget(self, key: K) -> None:
        """Drop a key. Work on it that has begun continues."""
        self._cancel_timer(key)
        self._again.discard(key)
        self._failures.pop(key, None)

    async def get(self) -> K:
        """Wait for a key. `done` must follow."""
        await self._filled.acquire()
        group, keys = self._ready.popitem(last=False)
        key = keys.popleft()
        if keys:
            self._ready[group] = keys  # after all other groups
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """Mark the work on a key as ended, after success or failure."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Cancel all keys that are due later."""
        for key in list(self._timers):
            self._cancel_timer(key)

    def _cancel_timer(self, key: K) -> None:
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
