"""After a notice all processes leave soon, at the same point, wherever each of them is when the notice comes."""

from __future__ import annotations

import itertools
import queue
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from halcyon.parallel.lifeline import Lifeline
from halcyon.parallel.process_group import ProcessGroup
from halcyon.parallel.sync_point import SyncPoint
from halcyon_devcluster.waiting import holds_within
from tests.suite.limits import limit

PATIENCE = 30
POINTS = 200
"""A notice comes at one of this many points. The processes continue until they leave."""


@contextmanager
def process_groups(count: int) -> Iterator[list[ProcessGroup]]:
    """The processes of a run, connected by real lifelines. Process 0 may start before the others have connected."""
    main, invitation = Lifeline.serve(count)
    others = [Lifeline.connect("127.0.0.1", invitation, index) for index in range(1, count)]
    try:
        yield [ProcessGroup(index, count, lifeline) for index, lifeline in enumerate([main, *others])]
    finally:
        for lifeline in (main, *others):
            lifeline.say_goodbye()


def test_a_single_process_leaves_at_the_next_point() -> None:
    sync_point = SyncPoint(ProcessGroup(0, 1))
    assert not sync_point.should_stop()
    sync_point.notice()
    sync_point.notice()
    assert sync_point.should_stop()
    assert sync_point.should_stop()


@pytest.mark.parametrize("seed", range(12))
def test_all_processes_leave_at_the_same_point_after_the_notice(seed: int) -> None:
    """The processes run in lockstep, as with collectives: each is at most one point ahead of the slowest.

    If two left at different points, the remaining ones would wait at the barrier forever.
    """
    chance = random.Random(seed)
    count = chance.choice((2, 3, 5, 8))
    noticed = chance.sample(range(count), chance.choice((1, 1, 2)))
    moments = {index: chance.randrange(POINTS) for index in noticed}
    left: dict[int, int] = {}
    began_at: list[int] = []
    together = threading.Barrier(count, timeout=limit(PATIENCE))
    deadline = time.monotonic() + limit(PATIENCE)

    def process(group: ProcessGroup) -> None:
        sync_point = SyncPoint(group)
        for point in itertools.takewhile(lambda _: time.monotonic() < deadline, itertools.count()):
            if moments.get(group.process_index) == point:
                began_at.append(point)
                threading.Thread(target=sync_point.notice).start()
            if sync_point.should_stop():
                left[group.process_index] = point
                return
            together.wait()

    with process_groups(count) as all_groups:
        threads = [threading.Thread(target=process, args=(group,)) for group in all_groups]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(limit(PATIENCE))
    assert len(left) == count, "a process never left"
    assert len(set(left.values())) == 1
    assert min(began_at) <= left[0]


def test_a_process_that_was_asked_waits_and_then_leaves_at_the_agreed_point() -> None:
    with process_groups(3) as (first, second, third):
        main, asked = SyncPoint(first), SyncPoint(second)
        questions: queue.Queue[bytes] = queue.Queue()
        assert third.lifeline is not None
        third.lifeline.listen(lambda kind, number: questions.put(kind))
        assert [main.should_stop(), asked.should_stop()] == [False, False]
        main.notice()
        assert questions.get(timeout=limit(PATIENCE)) == b"a"
        assert holds_within(lambda: asked._asked, PATIENCE, interval_seconds=0.001)
        reached: list[bool] = []
        waiting = threading.Thread(target=lambda: reached.extend(asked.should_stop() for _ in range(4)))
        waiting.start()
        waiting.join(0.1)
        assert reached == [], "the process passed a point before the agreement"
        third.lifeline.send(b"p", 3)
        waiting.join(limit(PATIENCE))
        assert reached == [False, False, True, True]
        assert [main.should_stop() for _ in range(3)] == [False, False, True]


def test_a_notice_before_the_first_point_stops_all_processes_at_one_point() -> None:
    with process_groups(2) as (first, second):
        other = SyncPoint(second)
        other.notice()
        main = SyncPoint(first)
        passed = next(count for count in range(10**6) if main.should_stop())
        assert [other.should_stop() for _ in range(passed)] == [False] * passed
        assert other.should_stop()
