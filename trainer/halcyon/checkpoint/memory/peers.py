"""Passes the files of snapshots between the pods of a run: a small HTTP server in each trainer, and its clients.

A request needs the token of the attempt's pods. What a peer sends is kept only if its bytes have the hash that its name
says.
"""

import hmac
import re
import socket
from contextlib import suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Self

from halcyon.checkpoint.memory.documents import KeptPart
from halcyon.checkpoint.memory.folder import Folder
from halcyon.checkpoint.parts import decode_report, encode_report, file_of
from halcyon.host.http_server import QuietHandler, QuietServer
from halcyon_api.checkpoint_documents import DamagedDocument, ManifestFile

_PATH = re.compile(r"/(\d{1,7})/([0-9a-f]{64}|part)")
_TOKEN = "Halcyon-Token"  # noqa: S105 - the name of a header
_SECONDS = 30.0
"""Longest silence of a peer."""
_LARGEST_BYTES = 2**30
"""Longest file that a peer may send; the largest chunk of a state has half of it."""


def own_address(host: str | None) -> str:
    """The address of this machine on its way to a host.

    Raises:
        OSError: The host has no address.
    """
    if host is None:
        return "localhost"
    family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # sends nothing
        return str(probe.getsockname()[0])


class PeerServer(QuietServer):
    """Serves the snapshots of this pod, and keeps those of others.

    Args:
        folder: The snapshots.
        token: What a request must carry; empty: all requests are rejected.
    """

    request_queue_size = 1024

    def __init__(self, folder: Folder, token: str) -> None:
        self.folder, self.token = folder, token
        super().__init__(("::" if socket.has_dualstack_ipv6() else "", 0), _Request)
        self.begin("halcyon-memory")


class _Request(QuietHandler):
    timeout = _SECONDS
    server: PeerServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_HEAD(self) -> None:  # noqa: N802 - the base class names it
        if (place := self._place()) is not None:
            self._answer(HTTPStatus.OK if self.server.folder.has(*place) else HTTPStatus.NOT_FOUND)

    def do_GET(self) -> None:  # noqa: N802 - the base class names it
        if (place := self._place()) is None:
            return
        try:
            data = self.server.folder.file(*place).read_bytes()
        except OSError:
            self._answer(HTTPStatus.NOT_FOUND)
            return
        self._answer(HTTPStatus.OK, data)

    def do_PUT(self) -> None:  # noqa: N802 - the base class names it
        length = self.headers.get("Content-Length", "")
        if (place := self._place()) is None:
            return
        if not re.fullmatch(r"\d{1,10}", length) or int(length) > _LARGEST_BYTES:
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        data, (process, name) = self.rfile.read(int(length)), place
        try:
            if name == "part":
                part = decode_report(KeptPart, data)
                if part.process != process:
                    raise ValueError
                self.server.folder.keep(part)
            elif file_of(name, (data,)).sha256 != name:
                raise ValueError
            else:
                self.server.folder.put(process, name, (data,))
        except (DamagedDocument, ValueError, OSError):
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        self._answer(HTTPStatus.OK)

    def _place(self) -> tuple[int, str] | None:
        """What the request is about: a process and a name. None: it is answered already."""
        found = _PATH.fullmatch(self.path)
        token = self.server.token
        allowed = token and hmac.compare_digest(self.headers.get(_TOKEN, "").encode(), token.encode())
        if found is None or not allowed:
            self.close_connection = True
            self._answer(HTTPStatus.FORBIDDEN)
            return None
        return int(found[1]), found[2]

    def _answer(self, status: HTTPStatus, data: bytes = b"") -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class Peer:
    """A connection to the server of another pod; not for several threads at a time.

    Args:
        address: Its host and port.
        token: See `PeerServer`.
    """

    def __init__(self, address: tuple[str, int], token: str) -> None:
        self._http = HTTPConnection(*address, timeout=_SECONDS)
        self._headers = {_TOKEN: token}

    def get(self, process: int, file: ManifestFile) -> bytes | None:
        """A file of a process's part, unchecked. None: the peer has not sent it."""
        with suppress(OSError, HTTPException):
            status, data = self._ask("GET", f"/{process}/{file.sha256}")
            return data if status == HTTPStatus.OK else None
        return None

    def send(self, folder: Folder, part: KeptPart) -> None:
        """Send a part and those of its files that the peer does not have.

        Raises:
            OSError, HTTPException: The peer does not answer, or has not kept it.
        """
        for file in part.files:
            path = f"/{part.process}/{file.sha256}"
            if self._ask("HEAD", path)[0] != HTTPStatus.OK:
                self._put(path, folder.file(part.process, file.sha256).read_bytes())
        self._put(f"/{part.process}/part", encode_report(part))

    def _put(self, path: str, data: bytes) -> None:
        status, _ = self._ask("PUT", path, data)
        if status != HTTPStatus.OK:
            raise OSError(f"answered {status}")

    def _ask(self, method: str, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        self._http.request(method, path, data, self._headers)
        answer = self._http.getresponse()
        return answer.status, answer.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()
