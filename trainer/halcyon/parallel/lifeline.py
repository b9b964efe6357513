"""A connection that tells at once when a process is gone.

JAX's coordination service finds a dead process by its missing heartbeats, many seconds later, and a collective may wait all that time: of
the devices of a surviving process only those whose neighbours died see an error, the others wait for them for ever. The kernel
knows better: it closes the sockets of a killed process in the same millisecond. So every process holds one TCP connection to process 0,
which carries nothing but a greeting and a farewell. Whoever loses one without a farewell reports the loss, and ends; the loss of process 0
reaches everybody. What closes no socket (a cut network, a stopped process, a dead machine) is still the heartbeat's to find.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halcyon_api.exit_codes import PEER_GONE, ExitCode

_TOKEN_BYTES = 16
_INDEX_BYTES = 4
_GREETING_BYTES = _TOKEN_BYTES + _INDEX_BYTES
_FAREWELL = b"!"
_CONNECT_SECONDS = 10.0

OnLoss = Callable[[int], object]
"""Is told the index of the lost process, in a thread of the lifeline."""


def end_process(lost: int) -> None:
    """Say which process is gone and end this one, whatever its threads wait for."""
    sys.stderr.write(f"process {lost} {PEER_GONE}\n")
    sys.stderr.flush()
    os._exit(ExitCode.FAILURE)


@dataclass
class _Peer:
    """The other end of a connection."""

    index: int | None
    """None until it has greeted."""
    received: bytes = b""
    parted: bool = False


class Lifeline:
    """The connections of one process: of process 0 to all others, of the others to process 0."""

    def __init__(self, on_loss: OnLoss) -> None:
        self.lost = threading.Event()
        """Set once any process is gone without a farewell."""
        self.leaving_once = threading.Lock()
        """Held by the thread that leaves the world: two may come to it at the same time."""
        self._on_loss = on_loss
        self._selector = selectors.DefaultSelector()
        self._connections: list[socket.socket] = []
        self._leaving = threading.Event()
        self._token = b""
        self._thread = threading.Thread(target=self._watch, name="halcyon-lifeline", daemon=True)

    @staticmethod
    def serve(on_loss: OnLoss = end_process) -> tuple[Lifeline, dict[str, Any]]:
        """Process 0's end, and the invitation that the others need to `connect`. JSON can say it."""
        lifeline = Lifeline(on_loss)
        lifeline._token = secrets.token_bytes(_TOKEN_BYTES)
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        listener = socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=4096)
        listener.setblocking(False)
        lifeline._selector.register(listener, selectors.EVENT_READ)
        lifeline._thread.start()
        return lifeline, {"port": listener.getsockname()[1], "token": lifeline._token.hex()}

    @staticmethod
    def connect(host: str, invitation: dict[str, Any], index: int, on_loss: OnLoss = end_process) -> Lifeline:
        """The end of process `index`.

        Raises:
            OSError: Process 0 does not accept the connection.
        """
        lifeline = Lifeline(on_loss)
        connection = socket.create_connection((host, invitation["port"]), timeout=_CONNECT_SECONDS)
        connection.sendall(bytes.fromhex(invitation["token"]) + index.to_bytes(_INDEX_BYTES, "big"))
        lifeline._add(connection, _Peer(0))
        lifeline._thread.start()
        return lifeline

    def part(self) -> bool:
        """Say farewell: from now on, neither is the end of this process a loss to the others, nor theirs to this one.

        Returns:
            False: it was said before.
        """
        if self._leaving.is_set():
            return False
        self._leaving.set()
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):
                connection.send(_FAREWELL)
        return True

    def _add(self, connection: socket.socket, peer: _Peer) -> None:
        connection.setblocking(False)
        self._connections.append(connection)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _watch(self) -> None:
        while True:
            for key, _ in self._selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)  # noqa: S101 - nothing else is registered
                if key.data is None:
                    with contextlib.suppress(OSError):
                        accepted, _ = connection.accept()
                        self._add(accepted, _Peer(None))
                else:
                    self._read(connection, key.data)

    def _read(self, connection: socket.socket, peer: _Peer) -> None:
        try:
            data = connection.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._closed(connection, peer)
            return
        peer.received += data
        if peer.index is None and len(peer.received) >= _GREETING_BYTES:
            greeting, peer.received = peer.received[:_GREETING_BYTES], peer.received[_GREETING_BYTES:]
            if not secrets.compare_digest(greeting[:_TOKEN_BYTES], self._token):
                self._forget(connection)
                return
            peer.index = int.from_bytes(greeting[_TOKEN_BYTES:], "big")
        if peer.index is not None and _FAREWELL in peer.received:
            peer.parted = True

    def _closed(self, connection: socket.socket, peer: _Peer) -> None:
        self._forget(connection)
        if peer.index is None or peer.parted:
            return
        self.lost.set()
        if not self._leaving.is_set():
            self._on_loss(peer.index)

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._connections.remove(connection)
        connection.close()
