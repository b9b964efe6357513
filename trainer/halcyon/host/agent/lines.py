"""A connection that carries JSON documents, one in a line."""

import json
import select
import selectors
import socket
import time
from contextlib import suppress
from typing import Any

MAX_LINE = 2**18
SILENCE_SECONDS = 15.0
"""A supervisor from whom nothing was heard for this time counts as lost: a dead machine and a cut network close no
connection.
"""
_SEND_SECONDS = 2.0


class Lines:
    """One end of a stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket: socket.socket | None = connection
        self._received = b""
        self._unread: list[dict[str, Any]] = []
        connection.setblocking(False)

    def send(self, **document: Any) -> None:
        """Send a document. If the other side does not take it in time, the connection is of no use any more, and the
        next `receive` says so.
        """
        data, deadline = json.dumps(document, separators=(",", ":")).encode() + b"\n", time.monotonic() + _SEND_SECONDS
        while data and self.socket is not None:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                ready = select.poll()  # `select.select` takes no descriptor above 1023
                ready.register(self.socket, select.POLLOUT)
                if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    self._shut()
                    return
            except OSError:
                self._shut()
                return

    def receive(self) -> list[dict[str, Any]] | None:
        """The documents that have come. None: the connection is closed, or what came is no document."""
        try:
            data = b"" if self.socket is None else self.socket.recv(65_536)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        *lines, self._received = (self._received + data).split(b"\n")
        if not data or len(self._received) > MAX_LINE:
            return None
        try:
            documents = [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            return None
        return documents if all(isinstance(document, dict) for document in documents) else None

    def wait_for(self, name: str, seconds: float | None) -> dict[str, Any] | None:
        """The next document with this member; those before it are dropped. None: the connection is closed.

        Args:
            name: The member.
            seconds: Longest wait; None: no limit.

        Raises:
            TimeoutError: None came in time.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.socket is not None:
            while self._unread:
                if name in (document := self._unread.pop(0)):
                    return document
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self.socket], [], [], wait)[0]:
                raise TimeoutError
            documents = self.receive()
            if documents is None:
                return None
            self._unread += documents
        return None

    def leave(self, selector: selectors.BaseSelector) -> None:
        """Close the connection, for which a selector has waited."""
        if self.socket is not None:
            selector.unregister(self.socket)
            self.socket.close()
            self.socket = None

    def _shut(self) -> None:
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
