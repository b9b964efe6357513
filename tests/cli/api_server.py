"""The part of an API server that the command line needs.

It counts requests, and its answers and events are set by the test.
"""

from __future__ import annotations

import json
import queue
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.suite.limits import limit

Document = dict[str, Any]
CUT = None
"""In a log: the connection breaks here."""


def run(version: int, phase: str = "Running") -> Document:
    return {"metadata": {"name": "small", "resourceVersion": str(version)}, "spec": {}, "status": {"phase": phase}}


def pod(name: str, state: str = "running", phase: str = "Running") -> Document:
    """A trainer pod whose container is `waiting`, `running` or `terminated`."""
    container: Document = {"name": "trainer", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    return {
        "metadata": {"name": name, "uid": f"uid of {name}"},
        "status": {
            "phase": phase,
            "containerStatuses": [container | {"state": {state: {"exitCode": 0} if state == "terminated" else {}}}],
        },
    }


def event(kind: str, document: Document) -> dict[str, Any]:
    return {"type": kind, "object": document}


class Server(ThreadingHTTPServer):
    """An API server with one run and its pods."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.run: Document | None = run(5)
        self.looks = 0
        self.patches: list[Document] = []
        self.refusal: tuple[int, str] | None = None
        """Status and message of the answer to a new document."""
        self.watched: queue.Queue[dict[str, list[str]]] = queue.Queue()
        self.events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.refuses_watches = False
        self.pods: dict[str, Document] = {}
        self.pod_lists = 0
        self.pod_watched: queue.Queue[dict[str, list[str]]] = queue.Queue()
        self.pod_events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.logs: defaultdict[str, queue.Queue[list[str | threading.Event | None]]] = defaultdict(queue.Queue)
        """The answer to each request for a pod's log, in turn.

        The server waits for an event in it. Without an answer the log is empty.
        """
        self.log_queries: defaultdict[str, list[dict[str, list[str]]]] = defaultdict(list)
        self.is_down = False
        self.turned_away = 0
        """Requests while it was down."""
        self.refuses_logs = 0
        """The HTTP status with which requests for logs fail; 0 if they succeed."""

    def stop(self) -> None:
        """End all open requests."""
        self.events.put(None)
        self.pod_events.put(None)
        self.shutdown()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if self.server.is_down:
            self.server.turned_away += 1
            self._answer(503, {"message": "not yet"})
        elif (log := re.search(r"/pods/([^/]+)/log$", url.path)) is not None:
            self._log(log[1], query)
        elif (one := re.search(r"/pods/([^/]+)$", url.path)) is not None:
            found = self.server.pods.get(one[1])
            self._answer(404 if found is None else 200, found or {"message": "gone"})
        elif url.path.endswith("/pods") and "watch" in query:
            self.server.pod_watched.put(query)
            self._watch(self.server.pod_events)
        elif url.path.endswith("/pods"):
            self.server.pod_lists += 1
            items = list(self.server.pods.values())
            self._answer(
                200, {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "40"}, "items": items}
            )
        elif url.path.endswith("/trainingruns") and "watch" not in query:
            self._answer(
                200, {"metadata": {"resourceVersion": "40"}, "items": [self.server.run] if self.server.run else []}
            )
        elif url.path.endswith("/trainingruns"):
            self.server.watched.put(query)
            self._watch(self.server.events)
        else:
            self.server.looks += 1
            self._answer(404 if self.server.run is None else 200, self.server.run or {"message": "gone"})

    def do_PATCH(self) -> None:
        self.server.patches.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(200, self.server.run or {})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        code, message = self.server.refusal or (200, "")
        self._answer(code, {"message": message} if message else self.server.run or {})

    def _answer(self, code: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _watch(self, events: queue.Queue[dict[str, Any] | None]) -> None:
        if self.server.refuses_watches:
            self._answer(403, {"message": "no watches"})
            return
        self._stream()
        while (change := events.get()) is not None:
            self._chunk(json.dumps(change) + "\n")
        self.wfile.write(b"0\r\n\r\n")

    def _log(self, name: str, query: dict[str, list[str]]) -> None:
        self.server.log_queries[name].append(query)
        if self.server.refuses_logs:
            self._answer(self.server.refuses_logs, {"message": "no logs"})
            return
        self._stream()
        try:
            pieces = self.server.logs[name].get_nowait()
        except queue.Empty:
            pieces = []
        for piece in pieces:
            if piece is CUT:
                self.close_connection = True
                return
            if isinstance(piece, threading.Event):
                piece.wait(limit(20))
            else:
                self._chunk(piece)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass
