"""An HTTP server of the standard library that a trainer can have beside its training."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietServer(ThreadingHTTPServer):
    """Answers each connection in a thread that does not outlive the process.

    Args:
        address: Where it listens; ``::`` is all addresses of both families.
        handler: Answers the requests of a connection.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def begin(self, name: str) -> None:
        """Answer requests in a thread with this name."""
        threading.Thread(target=self.serve_forever, args=(0.1,), name=name, daemon=True).start()

    def close(self) -> None:
        """Stop, after `begin`. A second call does nothing."""
        self.shutdown()
        self.server_close()

    def server_bind(self) -> None:
        """Bind without the base class's look-up of this host's name, which may take seconds if DNS is slow."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, request: object, client_address: object) -> None:
        """Do nothing: a client that disconnects does not affect the run."""


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps connections open, and writes nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Do nothing: requests are not events of the run."""
