"""When the processes of a run start together, and which end is the cause."""

from __future__ import annotations

import fcntl
import selectors
import socket
from contextlib import ExitStack
from itertools import count, permutations
from pathlib import Path
from typing import Any

import pytest

from halcyon.host.agent import lines
from halcyon.host.agent.leader import Leader
from halcyon.host.agent.lineage import MAX_ENDS, Lineage
from halcyon.host.agent.lines import Lines
from halcyon.host.agent.place import Place
from halcyon.host.agent.rendezvous import Go, Order, Quit, Rendezvous, Stop, stays
from tests.suite.limits import limit

KILLED = {"exitCode": 137}
ECHO = {"exitCode": 1, "report": {"peerLost": 1, "step": 7}}
SAVED = {"exitCode": 42, "report": {"saved": "step"}}


def meeting(processes: int = 2) -> Rendezvous:
    """A rendezvous whose nonces count."""
    numbers = count(1)
    return Rendezvous(processes, lambda: f"w{next(numbers)}", lambda: "2026-01-01T00:00:00.000Z")


def started(processes: int = 2) -> Rendezvous:
    """One whose processes run."""
    found = meeting(processes)
    for process in range(processes):
        found.joined(process, None)
        orders = found.waits(process)
    assert orders == [Go(Lineage(writers=("w1",)))]
    return found


def start_again(found: Rendezvous) -> Lineage:
    """The lineage with which the processes start again."""
    orders: list[Order] = []
    for process in range(found.processes):
        assert not orders, "nobody starts before all wait"
        orders = found.waits(process)
    (order,) = orders
    assert isinstance(order, Go)
    return order.lineage


def test_nobody_joins_before_every_supervisor_is_there() -> None:
    found = meeting()
    assert found.joined(0, None) == found.waits(0) == found.joined(1, None) == []
    assert found.waits(1) == [Go(Lineage(writers=("w1",)))]


def test_a_killed_process_stops_all_and_starts_with_them() -> None:
    found = started()
    assert found.ended(1, KILLED) == [Stop()]
    assert found.waits(1) == []
    assert found.ended(0, ECHO) == []
    (order,) = found.waits(0)
    assert isinstance(order, Go)
    assert (order.lineage.number, order.lineage.writers, order.lineage.failed_at) == (1, ("w1", "w2"), -1)
    (end,) = order.lineage.ends
    assert (end["number"], end["process"], end["exitCode"], end["step"]) == (1, 1, 137, 7), "by the other one"
    assert not order.lineage.taken


def test_a_start_that_has_taken_the_root_is_known_to_all_later_ones() -> None:
    found = started()
    found.has_checkpoint(-1)
    found.ended(1, KILLED | {"podLost": True})
    first = start_again(found)
    assert first.taken
    assert Lineage.read(first.document()) == first
    assert first.after(KILLED, "w", None).taken


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        ({0: ECHO, 1: KILLED}, 1),
        ({0: ECHO, 1: ECHO, 2: KILLED}, 2),
        ({0: SAVED, 1: SAVED | {"podLost": True}, 2: SAVED}, 1),
        ({0: {"exitCode": 137, "stopped": True}, 1: {"podLost": True}}, 1),
        ({0: {"podLost": True}, 1: KILLED}, 1),
    ],
)
def test_the_cause_does_not_depend_on_the_order_of_the_news(ends: dict[int, dict[str, Any]], cause: int) -> None:
    for order in permutations(ends.items()):
        found = started(len(ends))
        for process, end in order:
            found.ended(process, end)
        assert start_again(found).ends[-1]["process"] == cause


def test_a_lost_pod_is_waited_for_and_is_no_failure() -> None:
    found = started()
    assert found.lost(1) == [Stop()]
    assert found.ended(0, ECHO) == found.waits(0) == []
    assert found.joined(1, None) == []
    (order,) = found.waits(1)
    assert isinstance(order, Go)
    assert order.lineage.ends[-1]["podLost"]
    assert order.lineage.failed_at is None


def test_a_pod_that_is_replaced_before_its_loss_was_noticed_stops_the_others() -> None:
    assert started().joined(1, None) == [Stop()]


def test_a_new_leader_learns_the_lineage_from_the_others() -> None:
    known = Lineage(3, ("a", "b"), ({"number": 3},), 7)
    found = meeting()
    found.joined(0, None)
    found.joined(1, known)
    found.waits(0)
    (order,) = found.waits(1)
    assert isinstance(order, Go)
    assert (order.lineage.number, order.lineage.writers) == (4, ("a", "b", "w1"))
    assert order.lineage.ends[-1] == {
        "number": 4,
        "process": 0,
        "podLost": True,
        "at": "2026-01-01T00:00:00.000Z",
        "step": 0,
    }


@pytest.mark.parametrize(("committed", "goes_on"), [(-1, False), (5, True)])
def test_a_second_failure_without_a_checkpoint_ends_the_pods(committed: int, goes_on: bool) -> None:
    found = started()
    found.ended(1, KILLED)
    start_again(found)
    found.has_checkpoint(committed)
    found.ended(0, {"exitCode": 1})
    found.waits(0)
    (order,) = found.waits(1)
    assert isinstance(order, Go) if goes_on else order == Quit(1)


FAILED = {"exitCode": 1}


@pytest.mark.parametrize(
    ("before", "now", "leaves"),
    [
        ([(1, FAILED)], [(1, KILLED), (0, ECHO)], True),
        ([(0, FAILED)], [(1, FAILED), (0, ECHO)], False),  # another process
        ([(1, FAILED)], [(1, FAILED), (0, FAILED)], False),  # both
        ([(1, FAILED), (1, {"podLost": True})], [(1, FAILED)], False),  # another pod
        ([(1, FAILED), (0, {"podLost": True})], [(1, FAILED)], True),
        ([(1, FAILED), (1, SAVED)], [(1, FAILED)], False),
    ],
)
def test_the_pod_of_a_process_that_alone_fails_twice_leaves_its_node_once(
    before: list[tuple[int, Any]], now: list[tuple[int, Any]], leaves: bool
) -> None:
    found = started()
    found.leaves_node = True
    for process, end in before:
        found.ended(process, end)
        start_again(found)
    for process, end in now:
        found.ended(process, end)
    found.waits(0)
    assert found.waits(1) == [Quit(44, 1) if leaves else Quit(1)]
    if not leaves:
        return
    assert found.waits(0) == [], "its supervisor ends"
    assert found.lost(1) == found.joined(1, None) == []
    (order,) = found.waits(1)
    assert isinstance(order, Go)
    assert (order.lineage.ends[-1]["exitCode"], order.lineage.ends[-1]["podLost"]) == (now[0][1]["exitCode"], True)
    found.ended(1, FAILED)
    found.waits(0)
    assert found.waits(1) == [Quit(1)], "it is not the device"


@pytest.mark.parametrize(("steps", "goes_on"), [((), False), ((-1,), False), ((5,), False), ((5, 9), True)])
def test_without_a_restart_left_the_first_failure_without_a_checkpoint_ends_the_pods(
    steps: tuple[int, ...], goes_on: bool
) -> None:
    found = started()
    found.forgives = False
    for step in steps:
        found.has_checkpoint(step)
    found.ended(1, KILLED)
    found.waits(0)
    (order,) = found.waits(1)
    assert isinstance(order, Go) if goes_on else order == Quit(1)


def test_preemptions_in_a_row_without_a_checkpoint_never_end_the_pods() -> None:
    found = started()
    for number in range(1, 40):
        found.ended(0, SAVED)
        found.lost(1)
        found.joined(1, None)
        lineage = start_again(found)
        assert lineage.number == number
        assert len(lineage.ends) <= MAX_ENDS


def test_who_has_done_its_work_is_not_waited_for() -> None:
    found = started()
    assert found.done(0) == []
    assert not found.all_done
    assert found.done(1) == found.lost(1) == []
    assert found.all_done
    found = started()
    found.done(1)
    assert found.ended(0, KILLED) == [Stop(), Quit(43)]


def test_a_lineage_is_what_its_document_says() -> None:
    lineage = Lineage(2, ("a", "b", "c"), ({"number": 1}, {"number": 2}), -1)
    assert Lineage.read(lineage.document()) == lineage
    with pytest.raises(KeyError):
        Lineage.read({})


@pytest.mark.parametrize(
    ("code", "expected"), [(0, False), (1, True), (42, True), (-9, True), (43, False), (80, False), (88, False)]
)
def test_reserved_exit_codes_end_the_pod(code: int, expected: bool) -> None:
    assert stays(code) is expected


def test_a_slow_one_of_thousands_of_supervisors_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_SEND_SECONDS", 0.01)
    with selectors.DefaultSelector() as selector:
        Leader(Place(0, 2000, "localhost", 0, "", "1.0", Path("unused")), selector)  # allows the descriptors
        server = next(iter(selector.get_map().values())).fileobj
        assert isinstance(server, socket.socket)
        server.close()
    ours, its = socket.socketpair()
    with ours, its, socket.socket(fileno=fcntl.fcntl(ours, fcntl.F_DUPFD, 1024)) as far:
        connection = Lines(far)
        for _ in range(64):  # nobody reads it
            connection.send(text="x" * 2**16)
        assert connection.receive() is None


def test_a_pod_that_was_replaced_is_turned_away_when_it_comes_back() -> None:
    def says(since: int | None) -> Lines:
        connection = socket.create_connection(server.getsockname()[:2], timeout=limit(10))
        found = Lines(opened.enter_context(connection))
        known = None if since is None else Lineage(since, ("w",)).document()
        found.send(hello=1, token="", group="1.0", known=known, since=since)
        found.send(waits=True)
        return found

    def heard(lines: Lines) -> list[dict[str, Any]] | None:
        """What the leader answers to a sign of life; None: it has closed the connection."""
        lines.send(beat=True)
        for _ in range(3):
            while ready := selector.select(0.05):
                for key, _ in ready:
                    key.data()
        leader.beat()
        return lines.receive()

    with selectors.DefaultSelector() as selector, ExitStack() as opened:
        leader = Leader(Place(0, 2, "localhost", 0, "", "1.0", Path("unused")), selector)
        server = next(iter(selector.get_map().values())).fileobj
        assert isinstance(server, socket.socket)
        old = says(3)
        assert heard(old)
        new = says(None)
        assert heard(new)
        assert heard(old) is None, "its pod was replaced"
        assert heard(says(3)) is None, "it has come back"
        assert heard(new), "the newer pod stays"
        for key in selector.get_map().values():
            opened.enter_context(key.fileobj)
