"""The connections of a server: how many there are, and how long each may wait for its client.

A new connection is always accepted, so probes are answered at the limit too. If there are too many connections, of all
clients or of one address, the one is closed that has waited longest for its client: it is silent, has sent a part of a
request, or has its answer. A connection whose request the server computes is never closed for another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections import defaultdict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Generic, Protocol, TypeVar, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from halcyon.serving.limits import Limits

_SPARE = 64
"""Connections above the limit, for probes while the server computes a request of every connection."""
_OTHER_FILES = 256
"""Open files that are no connections."""
_GRACE_SECONDS = 5.0
"""Time for the answer 408 after the time of a body, and for a client to read the answer to a request that it has not
sent completely.
"""
_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _Droppable(Protocol):
    def drop(self) -> None:
        """End the connection at once."""
        ...


Connection = TypeVar("Connection", bound=_Droppable)


class Connections(Generic[Connection]):
    """The open connections.

    Args:
        most: Connections of all clients.
        most_of_address: Connections of one address.
    """

    def __init__(self, most: int, most_of_address: int) -> None:
        self._most, self._most_of_address = most, most_of_address
        self._addresses: dict[Connection, str] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._waiting: dict[Connection, None] = {}
        """Those that wait for their clients, the longest wait first."""
        self._waiting_of: dict[str, dict[Connection, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._addresses)

    def add(self, one: Connection, host: str) -> bool:
        """Add a connection, which waits for its client.

        Another one may be dropped. Returns whether there is room for it.
        """
        address = group_of(host)
        droppable = self._waiting_of[address] if self._counts[address] >= self._most_of_address else {}
        if not droppable and len(self) >= self._most:
            droppable = self._waiting
        self._addresses[one] = address
        self._counts[address] += 1
        if droppable:
            oldest = next(iter(droppable))
            self.remove(oldest)
            oldest.drop()
        self.wait(one)
        return len(self) <= self._most + _SPARE and self._counts[address] <= self._most_of_address + _SPARE

    def wait(self, one: Connection) -> None:
        """A connection begins to wait for its client."""
        address = self._addresses.get(one)
        if address is not None:
            self._waiting[one] = self._waiting_of[address][one] = None

    def work(self, one: Connection) -> None:
        """A connection has a request that the server answers."""
        self._waiting.pop(one, None)
        self._waiting_of.get(self._addresses.get(one, ""), {}).pop(one, None)

    def remove(self, one: Connection) -> None:
        """A connection ends; nothing happens if it has ended before."""
        self.work(one)
        address = self._addresses.pop(one, None)
        if address is None:
            return
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]
            self._waiting_of.pop(address, None)


def group_of(host: str) -> str:
    """The address that connections are counted by: of IPv6 the first 64 bits, because a client may have all that begin
    with them.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, 64), strict=False))
    return host


def openable(most: int) -> int:
    """Raise the limit of open files of this process for some connections. Returns how many of them are possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _SPARE + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a further limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft - _SPARE - _OTHER_FILES))


class ClosingTransport:
    """A transport whose `close` ends.

    It waits for a client that reads, and no longer. After a request that is not complete, it goes on to take what the
    client sends: a socket that is closed with bytes to read would make the client lose the answer.

    Args:
        inner: The transport.
        loop: The event loop.
        is_incomplete: Whether the client still sends a request.
    """

    def __init__(
        self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop, is_incomplete: Callable[[], bool]
    ) -> None:
        self._inner, self._loop, self._is_incomplete = inner, loop, is_incomplete
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def is_closing(self) -> bool:
        """Whether `close` was called, or the connection is lost."""
        return self._timer is not None or self._inner.is_closing()

    def close(self) -> None:
        """Send what is written, and close the connection."""
        if self.is_closing():
            return
        if self._is_incomplete():
            self._inner.resume_reading()
            self._inner.write_eof()
        else:
            self._inner.close()
        self._left = self._inner.get_write_buffer_size()
        self._timer = self._loop.call_later(_GRACE_SECONDS, self._end)

    def lost(self) -> None:
        """The connection is lost."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        left = self._inner.get_write_buffer_size()
        if not left or left == self._left:  # the client takes nothing
            self._inner.abort()
            return
        self._left = left
        self._timer = self._loop.call_later(_GRACE_SECONDS, self._end)


class HttpConnection(H11Protocol):
    """A connection of uvicorn with a time for each part that the client sends.

    Args:
        limits: The limits of the server.
        connections: The connections of the server.
        arguments: Of uvicorn.
    """

    def __init__(self, *, limits: Limits, connections: Connections[HttpConnection], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits, self._connections = limits, connections
        self._phase = ""
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A client has connected."""
        closing = ClosingTransport(transport, self.loop, lambda: self.conn.their_state in (h11.SEND_BODY, h11.ERROR))
        super().connection_made(cast(asyncio.Transport, closing))
        self._closing = closing
        self._enter("head", self._limits.header_seconds)
        if not self._connections.add(self, self.client[0] if self.client else ""):
            transport.write(_REFUSAL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._connections.remove(self)
        self._enter("", None)
        self._closing.lost()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def drop(self) -> None:
        """End the connection at once."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        if self.transport.is_closing():
            return  # the rest of a request that is answered
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._enter("head", self._limits.header_seconds)

    def handle_events(self) -> None:
        """Handle what the client has sent, and set the time for the rest."""
        super().handle_events()
        if self.transport.is_closing():
            self._enter("", None)
        elif self.conn.their_state is h11.SEND_BODY:
            self._enter("body", self._limits.body_seconds + _GRACE_SECONDS)
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._enter("head", self._limits.header_seconds)
        elif self.conn.their_state is not h11.IDLE:
            self._enter("request", None)

    def on_response_complete(self) -> None:
        """The answer is written, but the client may not have taken it."""
        super().on_response_complete()
        if self._phase == "request" and self.cycle.response_complete and not self.transport.is_closing():
            self._unsent = self.transport.get_write_buffer_size()
            self._enter("answer", self._limits.stall_seconds if self._unsent else None)

    def _enter(self, phase: str, seconds: float | None) -> None:
        """Begin a phase with a time limit; a phase that goes on keeps its limit."""
        if phase == self._phase:
            return
        self._phase = phase
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._late)
        if phase == "request":
            self._connections.work(self)
        else:
            self._connections.wait(self)

    def _late(self) -> None:
        """The time of a phase is over."""
        if self._phase == "answer":
            left = self.transport.get_write_buffer_size()
            if not left:
                return  # uvicorn's time for a connection without a request goes on
            if left < self._unsent:
                self._unsent = left
                self._timer = self.loop.call_later(self._limits.stall_seconds, self._late)
                return
        self.drop()
