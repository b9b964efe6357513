"""Finding the coordinator: names that resolve late, ports that open late, and invalid addresses."""

import socket

import pytest

from halcyon.parallel.process_group import POLL_SECONDS, NoCoordinator, resolve, split_address, wait_until_listening


class Time:
    """A clock that only advances when it sleeps."""

    def __init__(self, on_sleep=lambda number: None):
        self.now = 0.0
        self.sleeps = 0
        self._on_sleep = on_sleep

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.now += seconds
        self._on_sleep(self.sleeps)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("run-slice-0-0.run.default.svc.cluster.local:8476", ("run-slice-0-0.run.default.svc.cluster.local", 8476)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[fd00::1]:8476", ("fd00::1", 8476)),
    ],
)
def test_valid_addresses_are_split_into_host_and_port(text, parts):
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", "host", "host:", ":8476", "host:port", "host:0", "host:65536", "host:-1"])
def test_invalid_addresses_are_rejected(text):
    with pytest.raises(ValueError, match="must be host:port with a port from 1 to 65535"):
        split_address(text)


def test_a_name_that_resolves_late_is_waited_for(monkeypatch):
    time = Time()
    real = socket.getaddrinfo

    def late(host, port, **options):
        if time.sleeps < 7:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real("127.0.0.1", port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", late)
    assert resolve("fresh-pod", 8476, deadline=60, clock=time, sleep=time.sleep) == "127.0.0.1:8476"
    assert time.now == pytest.approx(7 * POLL_SECONDS)
    assert POLL_SECONDS <= 0.1


def test_a_name_that_never_resolves_is_reported():
    time = Time()
    with pytest.raises(NoCoordinator, match=r"the name nobody\.invalid of the coordinator does not resolve"):
        resolve("nobody.invalid", 8476, deadline=0.1, clock=time, sleep=time.sleep)


def test_a_port_that_opens_late_is_waited_for():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        time = Time(on_sleep=lambda number: listener.listen() if number == 3 else None)
        assert wait_until_listening("localhost", port, deadline=60, clock=time, sleep=time.sleep).endswith(f":{port}")
        assert time.sleeps == 3


def test_a_port_that_never_opens_is_reported():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        time = Time()
        with pytest.raises(
            NoCoordinator, match=rf"the coordinator does not answer at 127\.0\.0\.1:{port} \(Connection refused\)"
        ):
            wait_until_listening("127.0.0.1", port, deadline=0.2, clock=time, sleep=time.sleep)
        assert time.now >= 0.2
