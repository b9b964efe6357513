"""Connections have a time for each part that the client sends, and a silent one never keeps another client out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from halcyon.serving.access import Bodies, Keys
from halcyon.serving.connections import Connections, group_of, openable
from halcyon.serving.errors import ApiError
from halcyon.serving.limits import Limits
from halcyon.serving.metrics import Metrics
from halcyon.serving.routes import application
from halcyon.serving.server import Server, bound
from halcyon_devcluster.waiting import until
from tests.suite.limits import limit

SHORT = 0.05
"""Seconds of a limit that a test waits for."""


class Fake:
    def __init__(self) -> None:
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


def test_the_connection_that_waited_longest_makes_room() -> None:
    connections: Connections[Fake] = Connections(3, 2)
    first, second, third, fourth = (Fake() for _ in range(4))
    assert connections.add(first, "192.0.2.1")
    assert connections.add(second, "192.0.2.2")
    connections.work(first)
    assert connections.add(third, "192.0.2.3")
    assert connections.add(fourth, "192.0.2.4")
    assert [one.dropped for one in (first, second, third, fourth)] == [False, True, False, False]
    connections.wait(first)  # its answer is sent; it has waited for the shortest time
    assert connections.add(Fake(), "192.0.2.5")
    assert (first.dropped, third.dropped) == (False, True)
    assert len(connections) == 3


def test_one_address_drops_only_its_own_connections_and_probes_find_room_beside_requests() -> None:
    connections: Connections[Fake] = Connections(100, 2)
    other, *mine = (Fake() for _ in range(4))
    connections.add(other, "2001:db8::1")
    for number, one in enumerate(mine):
        assert connections.add(one, f"2001:db8:0:1::{number}")
    assert [one.dropped for one in (other, *mine)] == [False, True, False, False]
    full: Connections[Fake] = Connections(2, 2)
    for _ in range(2):
        full.add(one := Fake(), "192.0.2.1")
        full.work(one)
    probe = Fake()
    assert full.add(probe, "192.0.2.1")
    assert not probe.dropped
    for _ in range(70):
        full.add(one := Fake(), "192.0.2.1")
        full.work(one)
    assert not full.add(Fake(), "192.0.2.1")


def test_addresses_of_version_6_are_counted_by_their_network() -> None:
    assert group_of("2001:db8::1") == group_of("2001:db8::ffff") != group_of("2001:db8:0:1::1")
    assert group_of("::ffff:192.0.2.1") != group_of("::ffff:192.0.2.2")
    assert group_of("192.0.2.1") != group_of("192.0.2.2")
    assert 0 < openable(10) <= 10


def test_large_bodies_leave_room_for_small_ones() -> None:
    bodies = Bodies(Limits(all_bodies_bytes=100_000))
    with bodies.reading() as first, bodies.reading() as second:
        first(90_000)
        second(60_000)
        with pytest.raises(ApiError) as refused:
            second(10_000)
        assert refused.value.status == 429
    with bodies.reading() as third:
        third(100_000)


class _Worker:
    accepted, is_draining, fault = 0, False, ""

    class served:  # noqa: N801 - an attribute of the worker
        name = "tiny"

        class model:  # noqa: N801 - as above
            sight = None

    def drain(self) -> None: ...
    def stop(self) -> None: ...


class _Idle:
    """A service without a model."""

    fault = ""
    worker, metrics = _Worker(), Metrics()

    def __init__(self, limits: Limits) -> None:
        self.limits = limits


@contextmanager
def served(limits: Limits, app: Any = None, servers: list[Server] | None = None) -> Iterator[tuple[str, int]]:
    service: Any = _Idle(limits)
    server = Server(app or application(service, Keys(["0123456789abcdef"])), service.worker, limits, lambda _: None)
    if servers is not None:
        servers.append(server)
    listener = bound("127.0.0.1", 0)
    address = listener.getsockname()
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        until(
            lambda: server.started,
            timeout_seconds=30,
            interval_seconds=0.01,
            failure=lambda: "the server does not start",
        )
        yield address
    finally:
        server.should_exit = True
        thread.join(limit(30))


def connected(address: tuple[str, int], data: bytes = b"") -> socket.socket:
    found = socket.create_connection(address, timeout=limit(30))
    found.sendall(data)
    return found


def rest(client: socket.socket) -> bytes:
    """What the server sends until it closes the connection."""
    data = b""
    try:
        while part := client.recv(65536):
            data += part
    except ConnectionResetError:
        return data
    return data


def asked(address: tuple[str, int], path: str) -> bytes:
    with connected(address, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()) as client:
        return rest(client)


def test_silent_clients_keep_no_probe_out() -> None:
    with served(Limits(connections=20, connections_per_address=10)) as address, ExitStack() as stack:
        silent = [stack.enter_context(connected(address, b"POST /v1" if number % 2 else b"")) for number in range(60)]
        for path in ("/health", "/ready", "/metrics"):
            assert asked(address, path).startswith(b"HTTP/1.1 200")
        assert rest(silent[0]) == b""  # it made room


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health HTT",
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n\r\n",
    ],
)
def test_a_request_whose_headers_do_not_come_ends_the_connection(sent: bytes) -> None:
    with served(Limits(header_seconds=SHORT)) as address, connected(address, sent) as client:
        assert rest(client).count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", b"404"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", b"200"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{", b"401"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", b"401"),
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: "
            b"3\r\n\r\n0\r\n\r\nGET /",
            b"400",
        ),
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: "
            b"chunked\r\n\r\n0\r\n\r\n",
            b"400",
        ),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 70_000, b"400"),
    ],
    ids=[
        "404",
        "200",
        "401",
        "401 in chunks",
        "two lengths",
        "two lengths the other way",
        "lengths that differ",
        "gzip",
        "nonsense",
        "long",
    ],
)
def test_a_request_that_is_not_read_is_answered_and_ends_its_connection(sent: bytes, status: bytes) -> None:
    with served(Limits()) as address, connected(address, sent) as client:
        answer = rest(client)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.count(b"HTTP/1.1") == 1
        assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("start", ["GET /v1/models/MANY", "MANY /v1/models", "GET /MANY", "GET /assets/MANY"])
def test_an_error_does_not_repeat_a_long_name(start: str) -> None:
    line = start.replace("MANY", "M" * 10_000).encode()
    with served(Limits()) as address:
        ask = line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer 0123456789abcdef\r\n\r\n"
        with connected(address, ask) as client:
            answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 4")
    assert len(answer) < 1000


def test_a_body_that_does_not_come_ends_the_connection() -> None:
    key = b"Authorization: Bearer 0123456789abcdef\r\nContent-Type: application/json\r\n"
    with served(Limits(body_seconds=SHORT)) as address:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + key + b"Content-Length: 99\r\n\r\n"
        for sent in (head, head + b'{"pro'):
            with connected(address, sent) as client:
                assert rest(client).startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_take_its_answer_is_dropped() -> None:
    ended, servers = threading.Event(), list[Server]()

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"50000000")]})
        await send({"type": "http.response.body", "body": b"x" * 50_000_000})
        ended.set()

    ask = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with served(Limits(stall_seconds=SHORT), app, servers) as address, connected(address, ask) as client:
        assert ended.wait(limit(30))
        until(
            lambda: not servers[0].server_state.connections,
            timeout_seconds=30,
            interval_seconds=0.01,
            failure=lambda: "the connection stays",
        )
        assert len(rest(client)) < 50_000_000


def test_a_connection_is_used_again_after_an_error_that_was_read() -> None:
    head = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 0123456789abcdef\r\nContent-Type: "
        b"application/json\r\n"
    )
    with served(Limits()) as address, connected(address) as client, client.makefile("rb") as lines:
        for _ in range(3):
            client.sendall(head + b"Content-Length: 1\r\n\r\n{")
            assert lines.readline().startswith(b"HTTP/1.1 400")
            headers = iter(lines.readline, b"\r\n")
            length = next(int(line.split()[1]) for line in headers if line.lower().startswith(b"content-length"))
            for _ in headers:
                continue
            lines.read(length)
