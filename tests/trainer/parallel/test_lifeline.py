"""The lifeline reports each process that ends before all processes leave, and no other end."""

import queue
import socket

import pytest

from halcyon.parallel.lifeline import Lifeline
from tests.suite.limits import limit

PATIENCE = 30
GOODBYE = b"!" + bytes(8)


class Losses:
    """Collects the lost processes that a lifeline reports."""

    def __init__(self):
        self._lost = queue.Queue()

    def __call__(self, index: int) -> None:
        self._lost.put(index)

    def next(self) -> int:
        return self._lost.get(timeout=limit(PATIENCE))

    def none(self) -> bool:
        return self._lost.empty()


@pytest.fixture
def centre():
    """The lifeline of process 0 of three, its invitation, and the lost processes that it reports."""
    losses = Losses()
    lifeline, invitation = Lifeline.serve(3, losses)
    return lifeline, invitation, losses


def peer(invitation, index: int, token: str | None = None) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", invitation["port"]))
    connection.sendall(bytes.fromhex(token or invitation["token"]) + index.to_bytes(4, "big"))
    return connection


def wait_until_read(invitation) -> None:
    """Wait until process 0 has read all earlier messages: it then rejects a connection with a wrong token."""
    with peer(invitation, 1, token="00" * 16) as stranger:
        stranger.settimeout(limit(PATIENCE))
        assert stranger.recv(1) == b""


def test_process_0_is_notified_of_each_lost_process(centre):
    _, invitation, losses = centre
    connections = [peer(invitation, index) for index in (1, 2)]
    connections[1].close()
    assert losses.next() == 2
    connections[0].close()
    assert losses.next() == 1


def test_a_process_that_ends_after_its_goodbye_is_lost_while_others_go_on(centre):
    _, invitation, losses = centre
    connection = peer(invitation, 1)
    connection.sendall(GOODBYE)
    connection.close()
    assert losses.next() == 1


def test_processes_that_all_leave_are_not_reported_as_lost(centre):
    lifeline, invitation, losses = centre
    raw, follower_losses = peer(invitation, 1), Losses()
    follower = Lifeline.connect("127.0.0.1", invitation, 2, follower_losses)
    raw.sendall(GOODBYE)
    for each in (follower, lifeline):
        assert each.say_goodbye()
        assert not each.say_goodbye()
    assert all(each.wait_for_goodbyes(limit(PATIENCE)) for each in (lifeline, follower))
    assert raw.recv(9) == GOODBYE
    raw.close()
    wait_until_read(invitation)
    assert not lifeline.lost.is_set()
    assert losses.none()
    assert follower_losses.none()


def test_other_processes_are_notified_of_the_loss_of_process_0():
    losses = Losses()
    with socket.create_server(("127.0.0.1", 0)) as server:
        Lifeline.connect("127.0.0.1", {"port": server.getsockname()[1], "token": "ab" * 16}, 5, losses)
        connection, _ = server.accept()
        assert connection.recv(64) == bytes.fromhex("ab" * 16) + b"\0\0\0\5"
        connection.close()
    assert losses.next() == 0


def test_a_loss_ends_the_wait_of_a_process_that_leaves_but_not_the_process(centre):
    lifeline, invitation, losses = centre
    connection = peer(invitation, 1)
    lifeline.say_goodbye()
    connection.close()
    assert not lifeline.wait_for_goodbyes(limit(PATIENCE))
    assert lifeline.lost.is_set()
    assert losses.none()


def test_when_a_process_leaves_alone_the_others_do_not_leave_together(centre):
    """Process 1 stops waiting before process 0 and process 2 leave."""
    lifeline, invitation, _ = centre
    alone, third = (Lifeline.connect("127.0.0.1", invitation, index, Losses()) for index in (1, 2))
    alone.say_goodbye()
    assert not alone.wait_for_goodbyes(0.01)
    wait_until_read(invitation)
    third.say_goodbye()
    lifeline.say_goodbye()
    assert not lifeline.wait_for_goodbyes(limit(PATIENCE))
    assert not third.wait_for_goodbyes(0.01)
    assert not alone.wait_for_goodbyes(limit(PATIENCE))


def test_process_0_that_leaves_alone_gives_no_goodbye_to_those_that_leave_later(centre):
    lifeline, invitation, _ = centre
    others = [Lifeline.connect("127.0.0.1", invitation, index, Losses()) for index in (1, 2)]
    lifeline.say_goodbye()
    assert not lifeline.wait_for_goodbyes(0.01)
    for each in others:
        each.say_goodbye()
    wait_until_read(invitation)
    assert not any(each.wait_for_goodbyes(0.01) for each in others)


def test_a_connection_without_the_token_is_rejected_and_not_reported_as_lost(centre):
    _, invitation, losses = centre
    wait_until_read(invitation)
    with socket.create_connection(("127.0.0.1", invitation["port"])) as probe:
        probe.sendall(b"GET /")
    peer(invitation, 2).close()
    assert losses.next() == 2
    assert losses.none()


def test_a_process_that_hangs_tells_all_others(centre):
    lifeline, invitation, _ = centre
    hung = queue.Queue()
    lifeline.listen_hung(lambda: hung.put(0))
    others = [Lifeline.connect("127.0.0.1", invitation, index) for index in (1, 2)]
    others[1].listen_hung(lambda: hung.put(2))
    others[0].say_hung()
    assert {hung.get(timeout=limit(PATIENCE)) for _ in range(2)} == {0, 2}
    for each in (lifeline, *others):
        each.say_goodbye()
