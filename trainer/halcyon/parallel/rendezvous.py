"""Waits for the coordinator before JAX connects to it.

After a restart every second matters, and two waits would be slow in JAX: the DNS record of a fresh pod appears a little
after the pod, and gRPC backs off for a second or more after one failed connection. So this module resolves the name and
tries the port every 50 ms, and JAX connects to an address that is known to answer.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

POLL_SECONDS = 0.05

Clock = Callable[[], float]


class NoCoordinator(Exception):
    """The coordinator's name did not resolve in time, or its port did not answer in time. The message says which."""


def split_address(coordinator: str) -> tuple[str, int]:
    """Host and port of ``host:port``. An IPv6 address must be in brackets.

    Raises:
        ValueError: There is no port, or it is not a number from 1 to 65535.
    """
    host, separator, port = coordinator.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 1 <= int(port) <= 65_535:
        raise ValueError(f"the coordinator address {coordinator!r} must be host:port with a port from 1 to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def resolve(
    host: str, port: int, deadline: float, clock: Clock = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> str:
    """The first address of `host`, as ``address:port``. Retries until `deadline`.

    Raises:
        NoCoordinator: The name did not resolve in time.
    """
    while True:
        try:
            address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
            return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        except socket.gaierror as error:
            if clock() >= deadline:
                raise NoCoordinator(f"the name {host} of the coordinator does not resolve ({error.strerror})") from None
        sleep(POLL_SECONDS)


def wait_until_listening(
    host: str, port: int, deadline: float, clock: Clock = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> str:
    """The address of `host` that accepts connections on `port`, as ``address:port``.

    Every try resolves the name again, because a record may still point to the pod of the previous attempt.

    Raises:
        NoCoordinator: The name did not resolve in time, or the port did not answer in time.
    """
    while True:
        address = resolve(host, port, deadline, clock, sleep)
        try:
            with socket.create_connection(
                split_address(address), timeout=max(POLL_SECONDS, min(1.0, deadline - clock()))
            ):
                return address
        except OSError as error:
            if clock() >= deadline:
                raise NoCoordinator(
                    f"the coordinator does not answer at {address} ({error.strerror or error})"
                ) from None
        sleep(POLL_SECONDS)
