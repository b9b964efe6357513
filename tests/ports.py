"""TCP ports for servers that a test starts as separate processes, which bind them some seconds later.

A port that the system chooses (a bind to port 0) may be in use by then: by another test, or as the local end of a
connection. So these ports come from below the system's range, and each test process has its own block of ports. It
holds the block by listening on the block's first port.
"""

import atexit
import itertools
import socket
from collections.abc import Iterator
from functools import cache

FIRST, SIZE, BLOCKS = 20_000, 250, 40  # Linux hands out 32768 to 60999; Kubernetes' services begin at 30000


def free_port() -> int:
    """A TCP port that is free on every address of this machine and that no other test process gets."""
    _, ports = _block()
    return next(port for port in itertools.islice(ports, SIZE) if _is_free(port))


@cache
def _block() -> tuple[socket.socket, Iterator[int]]:
    """The socket that holds this process's block, and an endless cycle over the ports of the block."""
    for base in range(FIRST, FIRST + SIZE * BLOCKS, SIZE):
        held = socket.socket()
        try:
            held.bind(("127.0.0.1", base))
            held.listen()
        except OSError:
            held.close()
            continue
        atexit.register(held.close)
        return held, itertools.cycle(range(base + 1, base + SIZE))
    raise RuntimeError(f"{BLOCKS} processes of tests hold all ports from {FIRST} on: end some of them")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
