"""``/status``, ``/metrics``, ``/healthz``, ``POST /save`` and ``POST /profile`` over HTTP, each request in a thread of
its own.

The loop never waits for a client: handlers read its state without a lock. A request has `_REQUEST_SECONDS` from its
connection, or from the end of the request before it, to the end of its answer; then the client is disconnected. At
`_MOST_CONNECTIONS`, a new connection ends the one with the oldest request, so a client that hangs keeps no probe out.
Outside of a pod the server listens only on this machine's own address, and answers only to its own names. The only
requests that have an effect are those for a checkpoint and for a profile. They need the token that the operator gave to
the pod.
"""

import contextlib
import errno
import secrets
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError

from halcyon.host.errors import BadConfiguration
from halcyon.host.http_server import QuietHandler, QuietServer
from halcyon.host.local_names import is_own_host
from halcyon.telemetry.metrics import exposition
from halcyon.telemetry.reporter import RunReporter
from halcyon.telemetry.requests import ProfileRequests, SaveRequests
from halcyon_api.base import ApiModel
from halcyon_api.post_requests import MAX_SAVE_REQUEST_BYTES, PROFILE_PATH, SAVE_PATH, ProfileRequest, SaveRequest
from halcyon_api.sentences import first_fault

_REQUEST_SECONDS = 10.0
_MOST_CONNECTIONS = 32
"""Connections, each with a thread."""

Answer = tuple[HTTPStatus, str, bytes]
"""Status, content type, body."""
Gets = dict[str, Callable[[], Answer]]
"""What answers a GET request, by path."""
Posts = dict[str, tuple[str, Callable[[bytes], Answer]]]
"""The requests that have an effect, by path: what each asks for, and the function that takes its body."""


class TelemetryServer:
    """An HTTP server over a reporter, from its construction until `close`.

    Args:
        reporter: The source of the answers.
        port: Its port; 0: any free port.
        in_pod: Listen on all addresses: the kubelet, Prometheus and the operator come from outside. False: on this
            machine's own address.
        requests: Receives requests for a checkpoint; None: the run saves no checkpoints.
        token: The secret that a request for a checkpoint or a profile must contain; empty: such requests are rejected.
        profiles: Receives requests for a profile; None: the run trains no steps.
        request_seconds: Time for one request.

    Raises:
        BadConfiguration: The port is in use.
    """

    def __init__(
        self,
        reporter: RunReporter,
        port: int,
        *,
        in_pod: bool = False,
        requests: SaveRequests | None = None,
        token: str = "",
        profiles: ProfileRequests | None = None,
        request_seconds: float = _REQUEST_SECONDS,
    ) -> None:
        try:
            self._server = server = _bind(port, in_pod)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise BadConfiguration(
                f"spec.telemetry.port: port {port} is already in use on this machine; set another one, or end the "
                "process that has it"
            ) from None
        server.answers, server.posts = answers_of(reporter, requests), posts_of(reporter, requests, profiles)
        server.token, server.only_local, server.request_seconds = token, not in_pod, request_seconds
        self.host = str(server.server_address[0])
        """The address that the server listens on."""
        self.port = server.server_address[1]
        """Its port."""
        self.close = server.close
        """Stops listening. A second call does nothing."""
        server.begin("halcyon-telemetry")


def answers_of(reporter: RunReporter, requests: SaveRequests | None = None) -> Gets:
    """The functions that answer GET requests, by path."""

    def status() -> Answer:
        # Read the requests first: a request must never be listed with a report that is older than the request.
        taken = list(requests.taken) if requests is not None else []
        report = reporter.report().but(save_requests=taken)
        return HTTPStatus.OK, "application/json", report.model_dump_json(by_alias=True, exclude_none=True).encode()

    def metrics() -> Answer:
        text, content_type = exposition(reporter.observe())
        return HTTPStatus.OK, content_type, text

    def healthz() -> Answer:
        health = reporter.health()
        return _sentence(HTTPStatus.OK if health.healthy else HTTPStatus.SERVICE_UNAVAILABLE, health.message)

    return {"/status": status, "/metrics": metrics, "/healthz": healthz}


def posts_of(reporter: RunReporter, requests: SaveRequests | None, profiles: ProfileRequests | None) -> Posts:
    """The requests that have an effect, by path: what each asks for, and the function that takes its body.

    The function records a request, which the loop reads at its next step, and rejects one that names another process.
    """
    mine = reporter.identity
    posts: Posts = {}
    if requests is not None:

        def save(body: bytes) -> Answer:
            wanted = SaveRequest.model_validate_json(body, by_alias=True, by_name=False)
            if (wanted.run, wanted.attempt, wanted.restart) != (mine.run, mine.attempt, mine.restart):
                return _sentence(
                    HTTPStatus.CONFLICT, f"this is run {mine.run}, attempt {mine.attempt}, restart {mine.restart}"
                )
            return _accepted(requests.request(wanted.id, reporter.observe().step))

        posts[SAVE_PATH] = "checkpoint", save
    if profiles is not None:

        def profile(body: bytes) -> Answer:
            wanted = ProfileRequest.model_validate_json(body, by_alias=True, by_name=False)
            if wanted.run != mine.run:
                return _sentence(HTTPStatus.CONFLICT, f"this is run {mine.run}")
            return _accepted(profiles.request(wanted.steps, reporter.observe().step))

        posts[PROFILE_PATH] = "profile", profile
    return posts


class _Handler(QuietHandler):
    server: "_Server"  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version = "halcyon"
    sys_version = ""

    def handle_one_request(self) -> None:
        """Begin the time of a request, and answer it."""
        self.server.begin_request(self.connection)
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Read the headers. A request under a foreign name is refused; see `halcyon.host.local_names`."""
        if not super().parse_request():
            return False
        if self.server.only_local and not is_own_host(self.headers.get("Host", "")):
            self.close_connection = True
            self._send(
                _sentence(HTTPStatus.MISDIRECTED_REQUEST, "this process answers only to localhost; use that name")
            )
            return False
        return True

    def do_GET(self) -> None:  # noqa: N802 - the base class names it
        """Answer one request."""
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # the body is not read
        answer = self.server.answers.get(self.path.partition("?")[0], self._not_found)
        self._send(answer())

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:  # noqa: N802 - the base class names it
        """Take a request for a checkpoint or a profile."""
        self.close_connection = True  # the body of a rejected request is not read
        length = self.headers.get("Content-Length", "")
        if self.path not in self.server.posts:
            self._send(self._not_found())
            return
        what, take = self.server.posts[self.path]
        token = self.server.token
        given = self.headers.get("Authorization", "").encode()
        if not token or not secrets.compare_digest(given, f"Bearer {token}".encode()):
            self._send(_sentence(HTTPStatus.FORBIDDEN, f"a request for a {what} must have this process's token"))
        elif not (length.isascii() and length.isdigit() and len(length) < 9):
            self._send(_sentence(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing or not valid"))
        elif int(length) > MAX_SAVE_REQUEST_BYTES:
            self._send(
                _sentence(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has at most {MAX_SAVE_REQUEST_BYTES} bytes")
            )
        else:
            try:
                answer = take(self.rfile.read(int(length)))
            except ValidationError as error:
                answer = _sentence(HTTPStatus.BAD_REQUEST, first_fault(error, "body"))
            self._send(answer)

    def _not_found(self) -> Answer:
        return _sentence(HTTPStatus.NOT_FOUND, f"there are {', '.join(self.server.answers)}")

    def _send(self, answer: Answer) -> None:
        code, content_type, body = answer
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")  # otherwise a client with keep-alive loses its next request
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request that cannot be read, without the long text of the base class, which repeats what the client
        sent.
        """
        del message, explain
        self.close_connection = True
        self._send(_sentence(HTTPStatus(code), HTTPStatus(code).phrase))


class _Server(QuietServer):
    block_on_close = False
    request_queue_size = 128
    answers: Gets
    posts: Posts
    token: str
    only_local: bool
    request_seconds: float

    def __init__(self, host: str, port: int) -> None:
        self._lock = threading.Lock()
        self._ends: dict[socket.socket, float] = {}
        """When the request of each connection must have ended, the oldest request first."""
        super().__init__((host, port), _Handler)

    def begin_request(self, connection: socket.socket) -> None:
        """The time of a request begins."""
        with self._lock:
            if self._ends.pop(connection, None) is not None:
                self._ends[connection] = time.monotonic() + self.request_seconds

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own."""
        with self._lock:
            self._ends[request] = time.monotonic() + self.request_seconds
            if len(self._ends) > _MOST_CONNECTIONS:
                self._cut(next(iter(self._ends)))
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End connections whose time is over; called several times in a second."""
        now = time.monotonic()
        with self._lock:
            for connection in [one for one, end in self._ends.items() if end < now]:
                self._cut(connection)

    def shutdown_request(self, request: Any) -> None:
        """A connection has ended."""
        with self._lock:
            self._ends.pop(request, None)
        super().shutdown_request(request)

    def _cut(self, connection: socket.socket) -> None:
        """Wake the thread of a connection, which then closes it."""
        del self._ends[connection]
        with contextlib.suppress(OSError):  # the client has closed it
            connection.shutdown(socket.SHUT_RDWR)


def _bind(port: int, everywhere: bool) -> _Server:
    """Listen on this machine's own address; or on all addresses of both families, or only of IPv4 if the machine has no
    IPv6.
    """
    if not everywhere:
        return _Server("127.0.0.1", port)
    try:
        return _Server("::", port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise
        return _Server("0.0.0.0", port)  # noqa: S104 - the kubelet, Prometheus and the operator come from outside


def _accepted(taken: ApiModel) -> Answer:
    return HTTPStatus.ACCEPTED, "application/json", taken.model_dump_json(by_alias=True).encode()


def _sentence(code: HTTPStatus, words: str) -> Answer:
    return code, "text/plain; charset=utf-8", f"{words}\n".encode()
