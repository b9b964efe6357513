"""A server for tests of the chat page: it serves the page's files and plays OpenAI's HTTP contract with scripted
answers.

A test lists the answers before it asks. Inside an answer, `HOLD` waits until the test releases it, so a test sees the
page in the middle of an answer without a fixed time.
"""

from __future__ import annotations

import json
import mimetypes
import select
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from halcyon.serving.routes import PAGE, PAGE_HEADERS
from tests.suite.limits import limit

POLICY = PAGE_HEADERS["content-security-policy"]


class Tokens(NamedTuple):
    """A piece of an answer with the ids of its tokens."""

    text: str
    ids: Sequence[int]


HOLD = object()
"""In an answer: wait for `ChatServer.release`, or for the end of the connection."""


@dataclass(frozen=True)
class Text:
    """A streamed answer.

    Attributes:
        pieces: The texts, one event each, `Tokens`, and `HOLD`; ("thought", text) for text in the field `reasoning_content`.
        finish: The reason of its end; None for an answer that breaks off.
        events: Further events as they are, after the pieces.
        tokens: The number of tokens that the server counts; None: it says none.
    """

    pieces: Sequence[object]
    finish: str | None = "stop"
    events: Sequence[str] = ()
    tokens: int | None = None


@dataclass(frozen=True)
class Rejected:
    """An answer without a text: an HTTP status and an error document."""

    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict[str, str])


class ChatServer:
    """The state that tests read and change. One server serves all tests; `reset` begins the next.

    Attributes:
        requests: Body of each request for an answer.
        authorization: Its header Authorization, "" if there is none.
        key: The API key that requests need, "" for none.
        models: Names of the models.
        facts: Further fields of each model.
        released: One permit for each `HOLD`.
        gone: Set when a browser has closed a connection during an answer.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.requests: list[dict[str, Any]] = []
        self.authorization: list[str] = []
        self.key = ""
        self.models = ["tiny-llama", "tiny-qwen3"]
        self.facts: dict[str, Any] = {}
        self.released = threading.Semaphore(0)
        self.gone = threading.Event()
        self._script: deque[Text | Rejected] = deque()

    def script(self, *answers: Text | Rejected) -> None:
        """Append the next answers."""
        self._script.extend(answers)

    def release(self) -> None:
        """Let one `HOLD` go on."""
        self.released.release()

    def answer(self) -> Text | Rejected:
        """The answer to the present request."""
        return self._script.popleft() if self._script else Rejected(500, "The test has no answer for this request.")


class _Handler(BaseHTTPRequestHandler):
    chat: ChatServer

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            if self._allowed():
                self._json(
                    200,
                    {
                        "object": "list",
                        "data": [{"id": name, "object": "model"} | self.chat.facts for name in self.chat.models],
                    },
                )
            return
        path = PAGE / ("index.html" if self.path == "/" else self.path.lstrip("/"))
        if not path.is_file() or path.parent not in (PAGE, PAGE / "assets"):
            self._json(404, {"error": {"message": "There is no such file."}})
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", mimetypes.guess_type(path.name)[0] or "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        chat = self.chat
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat.requests.append(body)
        chat.authorization.append(self.headers.get("Authorization", ""))
        if not self._allowed():
            return
        answer = chat.answer()
        if isinstance(answer, Rejected):
            self._json(answer.status, {"error": {"message": answer.message, "type": "error"}}, answer.headers)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self._stream(answer)
        except (BrokenPipeError, ConnectionResetError):
            chat.gone.set()

    def _stream(self, answer: Text) -> None:
        for piece in answer.pieces:
            if piece is HOLD:
                self._hold()
            else:
                logs = None
                if isinstance(piece, Tokens):
                    logs = {"content": [{"id": token} for token in piece.ids]}
                    delta = {"content": piece.text}
                else:
                    delta = {"reasoning_content": piece[1]} if isinstance(piece, tuple) else {"content": piece}
                choice = {"index": 0, "delta": delta, "logprobs": logs, "finish_reason": None}
                self._event(json.dumps({"choices": [choice]}))
        for event in answer.events:
            self._event(event)
        if answer.finish is not None:
            self._event(json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish}]}))
            if answer.tokens is not None:
                self._event(json.dumps({"choices": [], "usage": {"completion_tokens": answer.tokens}}))
            self._event("[DONE]")

    def _hold(self) -> None:
        """Wait for the test, or notice that the browser has closed the connection: then it is readable and has no
        data.
        """
        for _ in range(limit(30) * 20):
            if self.chat.released.acquire(timeout=0.05):
                return
            if select.select([self.connection], [], [], 0)[0]:
                raise BrokenPipeError
        raise TimeoutError("the test did not release the answer")

    def _event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _allowed(self) -> bool:
        if not self.chat.key or self.headers.get("Authorization") == f"Bearer {self.chat.key}":
            return True
        self._json(401, {"error": {"message": "The API key is missing or wrong."}})
        return False

    def _json(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Print nothing."""


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server on a free port of this machine."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        handler.chat = ChatServer(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield handler.chat
        finally:
            server.shutdown()
            thread.join()
