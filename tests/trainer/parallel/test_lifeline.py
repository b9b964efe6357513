"""The lifeline reports each process that ends without a goodbye, and no other end."""

import queue
import socket

import pytest

from halcyon.parallel.lifeline import Lifeline
from tests.suite.limits import limit

PATIENCE = 30
FAREWELL = b"!" + bytes(8)


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
    """Process 0's lifeline, its invitation, and the lost processes that it reports."""
    losses = Losses()
    lifeline, invitation = Lifeline.serve(losses)
    return lifeline, invitation, losses


def peer(invitation, index: int, token: str | None = None) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", invitation["port"]))
    connection.sendall(bytes.fromhex(token or invitation["token"]) + index.to_bytes(4, "big"))
    return connection


def test_process_0_is_notified_of_each_lost_process(centre):
    _, invitation, losses = centre
    connections = [peer(invitation, index) for index in (1, 2, 3)]
    connections[1].close()
    assert losses.next() == 2
    connections[0].close()
    assert losses.next() == 1
    connections[2].close()
    assert losses.next() == 3


def test_a_process_that_says_goodbye_is_not_reported_as_lost(centre):
    lifeline, invitation, losses = centre
    polite, rude = peer(invitation, 1), peer(invitation, 2)
    polite.sendall(FAREWELL)
    polite.close()
    rude.close()
    assert losses.next() == 2
    assert losses.none()
    assert lifeline.lost.is_set()


def test_other_processes_are_notified_of_the_loss_of_process_0():
    losses = Losses()
    with socket.create_server(("127.0.0.1", 0)) as server:
        Lifeline.connect("127.0.0.1", {"port": server.getsockname()[1], "token": "ab" * 16}, 5, losses)
        connection, _ = server.accept()
        assert connection.recv(64) == bytes.fromhex("ab" * 16) + b"\0\0\0\5"
        connection.close()
    assert losses.next() == 0


def test_a_process_that_left_is_not_ended_by_processes_that_leave_later(centre):
    lifeline, invitation, losses = centre
    connection = peer(invitation, 1)
    follower_losses = Losses()
    follower = Lifeline.connect("127.0.0.1", invitation, 2, follower_losses)
    lifeline.say_goodbye()
    assert connection.recv(9) == FAREWELL
    connection.close()
    assert lifeline.lost.wait(limit(PATIENCE))
    assert losses.none()
    assert not follower.lost.is_set()
    assert follower_losses.none()


def test_a_connection_without_the_token_is_rejected_and_not_reported_as_lost(centre):
    _, invitation, losses = centre
    with peer(invitation, 1, token="00" * 16) as stranger:
        stranger.settimeout(limit(PATIENCE))
        assert stranger.recv(1) == b""
    with socket.create_connection(("127.0.0.1", invitation["port"])) as probe:
        probe.sendall(b"GET /")
    peer(invitation, 3).close()
    assert losses.next() == 3
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
