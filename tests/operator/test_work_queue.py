"""The promises of the work queue, on an event loop whose time jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

from halcyon_operator.run.work_queue import LONGEST_DELAY_SECONDS, WorkQueue


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps: it never waits."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self._loop.jump(timeout)
        return super().select(0 if timeout is not None else None)


def run(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story)


def test_a_waiting_key_is_not_added_twice() -> None:
    async def story() -> None:
        queue: WorkQueue[str] = WorkQueue(lambda: 0.0)
        for key in "abaab":
            queue.add(key)
        assert len(queue) == 2
        assert [await queue.get(), await queue.get()] == ["a", "b"]

    run(story())


def test_groups_take_turns() -> None:
    async def story() -> None:
        queue: WorkQueue[tuple[str, str]] = WorkQueue(lambda: 0.0, group=lambda key: key[0])
        for number in range(1000):
            queue.add(("many", str(number)))
        queue.add(("few", "a"))
        queue.add(("few", "b"))
        got = [await queue.get() for _ in range(1002)]
        assert got[:5] == [("many", "0"), ("few", "a"), ("many", "1"), ("few", "b"), ("many", "2")]
        assert len(set(got)) == 1002

    run(story())


def test_a_key_is_processed_by_one_worker_at_a_time() -> None:
    async def story() -> None:
        queue: WorkQueue[str] = WorkQueue(lambda: 0.0)
        queue.add("a")
        await queue.get()
        queue.add("a")
        queue.add("a")
        assert len(queue) == 0
        queue.done("a")
        assert len(queue) == 1
        assert await queue.get() == "a"
        queue.done("a")
        assert len(queue) == 0

    run(story())


def test_the_earliest_time_counts_and_an_addition_now_replaces_it() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        queue: WorkQueue[str] = WorkQueue(lambda: 0.0)
        queue.add_after("a", 50)
        queue.add_after("a", 10)
        queue.add_after("a", 30)
        assert queue.scheduled == 1
        assert await queue.get() == "a"
        assert loop.time() == 10
        queue.done("a")
        queue.add_after("a", 50)
        queue.add("a")
        assert (queue.scheduled, len(queue)) == (0, 1)

    run(story())


def test_failures_back_off_with_a_random_part_and_success_forgets_them() -> None:
    async def story() -> None:
        queue: WorkQueue[str] = WorkQueue(lambda: 1.0)
        delays = [queue.add_failed("a") for _ in range(30)]
        assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
        assert max(delays) == LONGEST_DELAY_SECONDS
        assert queue.add_failed("b") == 0.2, "other keys must not be delayed"
        queue.succeeded("a")
        assert queue.add_failed("a") == 0.2
        halved: WorkQueue[str] = WorkQueue(lambda: 0.0)
        assert halved.add_failed("a") == 0.1

    run(story())


def test_a_forgotten_key_does_not_come_back() -> None:
    async def story() -> None:
        queue: WorkQueue[str] = WorkQueue(lambda: 0.0)
        queue.add_after("a", 5)
        queue.forget("a")
        queue.add_after("b", 10)
        assert await queue.get() == "b"

    run(story())
