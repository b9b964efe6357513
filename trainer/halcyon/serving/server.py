"""The process of ``halcyon serve``: the socket, the signals, and the end."""

import errno
import socket
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from halcyon.host.errors import BadConfiguration
from halcyon.serving.connections import Connections, HttpConnection
from halcyon.serving.limits import Limits
from halcyon.serving.worker import Worker

_KEEP_ALIVE_SECONDS = 620
"""Load balancers use a connection again after up to 600 s.

A server that closes it at the same moment would make their request fail.
"""
_FLUSH_SECONDS = 5
"""Time for the last parts of answers to reach their clients, after the texts have ended."""
_BACKLOG = 2048


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        BadConfiguration: The address is not of this machine, or is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise BadConfiguration(f"--port: port {port} of {host} is in use; give another one") from None
        raise BadConfiguration(
            f"--host: {host} cannot be used: {error.strerror or error}; give an address of this machine"
        ) from None
    return made


class Server(uvicorn.Server):
    """Serves an application until SIGTERM or SIGINT, and then lets the requests in flight end.

    New requests get 503 from the signal on. When no text is left, or after `Limits.drain_seconds`, the server closes
    its connections. A second signal ends it at once.

    Args:
        app: The application.
        worker: Computes the texts.
        limits: The limits.
        say: Writes a line for the user.
    """

    def __init__(self, app: ASGIApp, worker: Worker, limits: Limits, say: Callable[[str], None]) -> None:
        connections = Connections[HttpConnection](limits.connections, limits.connections_per_address)
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=cast(Any, partial(HttpConnection, limits=limits, connections=connections)),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_FLUSH_SECONDS,
            )
        )
        self._worker, self._limits, self._say = worker, limits, say
        self._deadline: float | None = None
        self._said = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; end at the second."""
        del sig, frame
        if self._deadline is None:
            self._worker.drain()
            self._deadline = time.monotonic() + self._limits.drain_seconds
        else:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """End when the requests in flight have ended, or their time is over."""
        if self._deadline is not None:
            if not self._said:
                self._said = True
                self._say(f"ending: {self._worker.accepted} texts have {self._limits.drain_seconds:g} seconds")
            if not self._worker.accepted or time.monotonic() >= self._deadline:
                self.should_exit = True
        if self.should_exit:
            self._worker.stop()
        return await super().on_tick(counter)
