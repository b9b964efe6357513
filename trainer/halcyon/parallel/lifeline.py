"""Detects the end of a process at once, through a TCP connection.

JAX's coordination service detects a dead process by its missing heartbeats, many seconds later, and a collective may
wait all that time: of the devices of a surviving process only those whose neighbours died see an error; the others wait
forever. The kernel closes the sockets of a killed process in the same millisecond. So every process holds one TCP
connection to process 0. If a connection closes before all processes leave, the process at the other end reports the
loss and ends; when process 0 ends, all other processes detect it. Only the heartbeats detect a fault that closes no
socket: a cut network, a stopped process or a dead machine.

A process that leaves sends a goodbye message to process 0. When all have left, process 0 sends one to all, and the end
of a process is no loss any more. A process that leaves alone, because of an error that the others do not have, is still
lost to them when it ends.

Besides the greeting and the goodbye the connection carries the news that a process hangs, and the small messages of
`halcyon.parallel.sync_point`. A separate thread of each process receives them at once, even if the main thread waits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from halcyon_api.ends import ExitCode

_TOKEN_BYTES = 16
_INDEX_BYTES = 4
_GREETING_BYTES = _TOKEN_BYTES + _INDEX_BYTES
_MESSAGE = struct.Struct(">cQ")
_GOODBYE = b"!"
_ALONE = b"-"
_HANGS = b"h"
_CONNECT_SECONDS = 10.0

OnLoss = Callable[[int], object]
"""Called with the index of the lost process, in a thread of the lifeline."""
OnMessage = Callable[[bytes, int], object]
"""Called with the kind of a message (one byte) and its number."""


def end_process(lost: int) -> None:
    """Report the lost process and end this one at once, even if its threads wait."""
    try:
        sys.stderr.write(f"process {lost} has ended, so this process ends too\n")
        sys.stderr.flush()
    finally:
        os._exit(ExitCode.FAILURE)


@dataclass
class _Peer:
    """The other end of a connection."""

    index: int | None
    """Index of the process; None until its greeting is received."""
    received: bytes = b""


class Lifeline:
    """The connections of one process: from process 0 to all others, or from another process to process 0."""

    def __init__(self, on_loss: OnLoss) -> None:
        self.lost = threading.Event()
        """Set when a connection closes before all processes leave."""
        self.leave_lock = threading.Lock()
        """Held by the thread that leaves the process group: two threads may try at the same time."""
        self._on_loss = on_loss
        self._selector = selectors.DefaultSelector()
        self._connections: list[socket.socket] = []
        """On process 0, the connections of all processes whose greeting is received; on the others, the connection to
        process 0.
        """
        self._sent: list[bytes] = []
        self._send_lock = threading.Lock()
        self._on_message: tuple[OnMessage, ...] = ()
        self._on_hung: Callable[[], object] = lambda: None
        self._undelivered: list[tuple[bytes, int]] = []
        self._receive_lock = threading.Lock()
        self._leaving = threading.Event()
        self._leave_decided = threading.Condition()
        self._all_leave: bool | None = None
        """Whether all processes leave together. None until this is known."""
        self._missing_goodbyes = 1
        """On process 0, the number of processes that have not left. The others wait for the goodbye of process 0."""
        self._token = b""
        self._is_main = False
        self._thread = threading.Thread(target=self._watch, name="halcyon-lifeline", daemon=True)

    @staticmethod
    def serve(process_count: int, on_loss: OnLoss = end_process) -> tuple[Lifeline, dict[str, Any]]:
        """Process 0's side, and the invitation (a JSON document) that the others need for `connect`."""
        lifeline = Lifeline(on_loss)
        lifeline._missing_goodbyes = process_count
        lifeline._token, lifeline._is_main = secrets.token_bytes(_TOKEN_BYTES), True
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        listener = socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=4096)
        listener.setblocking(False)
        lifeline._selector.register(listener, selectors.EVENT_READ)
        lifeline._thread.start()
        return lifeline, {"port": listener.getsockname()[1], "token": lifeline._token.hex()}

    @staticmethod
    def connect(host: str, invitation: dict[str, Any], index: int, on_loss: OnLoss = end_process) -> Lifeline:
        """The side of process `index`.

        Raises:
            OSError: Process 0 does not accept the connection.
        """
        lifeline = Lifeline(on_loss)
        connection = socket.create_connection((host, invitation["port"]), timeout=_CONNECT_SECONDS)
        connection.sendall(bytes.fromhex(invitation["token"]) + index.to_bytes(_INDEX_BYTES, "big"))
        lifeline._watch_over(connection, _Peer(0))
        lifeline._connections.append(connection)
        lifeline._thread.start()
        return lifeline

    def listen(self, on_message: OnMessage) -> None:
        """Add a receiver of all messages, which knows its own ones by their kind.

        A thread of the lifeline calls it; for messages before the first receiver the calling thread does.
        """
        with self._receive_lock:
            self._on_message += (on_message,)
            for kind, number in self._undelivered:
                on_message(kind, number)
            self._undelivered.clear()

    def listen_hung(self, on_hung: Callable[[], object]) -> None:
        """Set the function that a thread of the lifeline calls when another process says that it hangs; it may be
        called more than once.
        """
        self._on_hung = on_hung

    def say_hung(self) -> None:
        """Tell all other processes that this one hangs. For any thread."""
        self.send(_HANGS)

    def send(self, kind: bytes, number: int = 0, *, kept: bool = True) -> None:
        """Send a message to process 0, or from process 0 to all others. For any thread.

        Args:
            kind: One byte.
            number: 0 to 2^64 - 1.
            kept: Whether those get it too that connect later.
        """
        message = _MESSAGE.pack(kind, number)
        with self._send_lock:
            if kept:
                self._sent.append(message)
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the watch detects a process that cannot receive it
                    connection.send(message)

    def say_goodbye(self) -> bool:
        """Send the goodbye message: from now on this process does not end because another is lost.

        Returns:
            False if the message was sent before.
        """
        if self._leaving.is_set():
            return False
        self._leaving.set()
        if self._is_main:
            self._count_goodbye()
        else:
            self.send(_GOODBYE)
        return True

    def wait_for_goodbyes(self, seconds: float) -> bool:
        """Wait until all processes leave, and at most `seconds`. Stops at once when a process is lost. Call it after
        `say_goodbye`.

        Returns:
            Whether all processes leave. If not, this process leaves alone, and its end is a loss to the others.
        """
        with self._leave_decided:
            if not self._leave_decided.wait_for(lambda: self._all_leave is not None, seconds):
                self._all_leave = False
                if not self._is_main:
                    self.send(_ALONE)
            return self._all_leave is True

    def _count_goodbye(self) -> None:
        """Count a goodbye message, on process 0 also its own. When all have left, process 0 tells the others."""
        with self._leave_decided:
            self._missing_goodbyes -= 1
            if self._missing_goodbyes == 0 and self._all_leave is None:
                if self._is_main:
                    self.send(_GOODBYE)
                self._decide(all_leave=True)

    def _decide(self, *, all_leave: bool) -> None:
        with self._leave_decided:
            if self._all_leave is None:
                self._all_leave = all_leave
                self._leave_decided.notify_all()

    def _watch_over(self, connection: socket.socket, peer: _Peer) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _watch(self) -> None:
        while True:
            for key, _ in self._selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)  # noqa: S101 - nothing else is registered
                if key.data is None:
                    with contextlib.suppress(OSError):
                        accepted, _ = connection.accept()
                        self._watch_over(accepted, _Peer(None))
                else:
                    self._read(connection, key.data)

    def _read(self, connection: socket.socket, peer: _Peer) -> None:
        try:
            data = connection.recv(1024)
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
            self._welcome(connection)
        while peer.index is not None and len(peer.received) >= _MESSAGE.size:
            kind, number = _MESSAGE.unpack(peer.received[: _MESSAGE.size])
            peer.received = peer.received[_MESSAGE.size :]
            if kind == _GOODBYE:
                self._count_goodbye()
            elif kind == _ALONE:
                self._decide(all_leave=False)
            elif kind == _HANGS:
                if self._is_main:
                    self.say_hung()  # the others have no connection between them
                self._on_hung()
            else:
                self._deliver(kind, number)

    def _welcome(self, connection: socket.socket) -> None:
        """Send this connection the earlier messages now, and all later ones."""
        with self._send_lock:
            self._connections.append(connection)
            with contextlib.suppress(OSError):
                connection.send(b"".join(self._sent))

    def _deliver(self, kind: bytes, number: int) -> None:
        with self._receive_lock:
            if not self._on_message:
                self._undelivered.append((kind, number))
            for on_message in self._on_message:
                on_message(kind, number)

    def _closed(self, connection: socket.socket, peer: _Peer) -> None:
        self._forget(connection)
        if peer.index is None:
            return
        self._decide(all_leave=False)
        if self._all_leave:
            return
        self.lost.set()
        if not self._leaving.is_set():
            self._on_loss(peer.index)

    def _forget(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        with self._send_lock:
            if connection in self._connections:
                self._connections.remove(connection)
        connection.close()
