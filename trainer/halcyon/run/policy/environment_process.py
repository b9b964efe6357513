"""The process of an environment: it calls the user's function once for each answer, in a thread, and serves the model
to it by OpenAI's protocol.

It imports no JAX and knows no tokens: what a function asks the model goes as a line of JSON to the trainer, and comes
back as one (`halcyon.run.policy.conversations`). What the function prints goes to standard error.
"""

import importlib
import json
import math
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from halcyon.host.http_server import QuietHandler, QuietServer

_LARGEST_BODY = 16 * 1024 * 1024


class Refused(Exception):
    """The model does not answer; the message says why."""


@dataclass
class Conversation:
    """What the function gets: one prompt, to be answered once.

    Attributes:
        prompt: The text of the prompt, as the model reads it.
        messages: Stands for the prompt in a request. Other messages are rendered by the chat template.
        reference: The reference of the row of data.
        arguments: ``objective.policy.environment.arguments``.
        url: The base URL of the model for a client of OpenAI's protocol.
        key: The API key of that URL.
    """

    prompt: str
    messages: list[dict[str, Any]]
    reference: str
    arguments: Mapping[str, Any]
    url: str
    key: str
    _complete: Callable[[Mapping[str, Any]], dict[str, Any]] = field(repr=False)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, Any]:
        """The next message of the model.

        Args:
            messages: The whole conversation. Those of an earlier call come first, then the answer to it.
            tools: The functions that the model may call, as OpenAI's protocol describes them.

        Raises:
            Refused: There is no room for a further answer, or an earlier message is another one.
        """
        return self._complete({"messages": list(messages), "tools": tools})["choices"][0]["message"]


class _Process:
    """Passes requests to the trainer, and its answers back."""

    def __init__(self, to_trainer: Any) -> None:
        self._to_trainer, self._lock = to_trainer, threading.Lock()
        self._answers: dict[str, queue.SimpleQueue[dict[str, Any]]] = {}
        self.key = secrets.token_urlsafe(24)

    def send(self, **line: Any) -> None:
        with self._lock:
            self._to_trainer.write(json.dumps(line) + "\n")
            self._to_trainer.flush()

    def complete(self, row: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """An answer of the model, as OpenAI's protocol has it."""
        if row not in self._answers:
            raise Refused("the conversation has ended")
        self.send(row=row, request={name: request.get(name) for name in ("messages", "tools")})
        answer = self._answers[row].get()
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer["completion"]

    def take(self, line: dict[str, Any], function: Callable[[Conversation], Any], given: Mapping[str, Any]) -> None:
        """Begin a conversation, or pass an answer to one."""
        row = line["row"]
        if "prompt" not in line:
            self._answers.get(row, queue.SimpleQueue()).put(line)  # it may have ended meanwhile
            return
        self._answers[row] = queue.SimpleQueue()
        messages = [{"role": "user", "content": line["prompt"]}]
        url = f"http://127.0.0.1:{given['port']}/{row}/v1"
        conversation = Conversation(
            line["prompt"], messages, line["reference"], given["arguments"], url, self.key,
            lambda request: self.complete(row, request),
        )  # fmt: skip
        threading.Thread(target=self._run, args=(row, function, conversation), daemon=True).start()

    def _run(self, row: str, function: Callable[[Conversation], Any], conversation: Conversation) -> None:
        try:
            reward = float(function(conversation))
            if not math.isfinite(reward):
                raise ValueError(f"it returned {reward}; return a finite number")
            self.send(row=row, reward=reward)
        except BaseException as error:  # whatever it is, the other conversations go on
            line = next(iter(str(error).splitlines()), "")
            self.send(row=row, failed=f"{type(error).__name__}: {line}"[:300])
        finally:
            del self._answers[row]


def _server(process: _Process) -> QuietServer:
    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802
            row, _, path = self.path.removeprefix("/").partition("/")
            size = int(self.headers.get("Content-Length") or 0)
            if not secrets.compare_digest(self.headers.get("Authorization", ""), f"Bearer {process.key}"):
                return self._answer(401, _error("the API key is wrong"))
            if path != "v1/chat/completions" or not 0 < size <= _LARGEST_BODY:
                return self._answer(404, _error("there is only POST .../v1/chat/completions"))
            try:
                request = json.loads(self.rfile.read(size))
                if request.get("stream"):
                    raise Refused("answers are not streamed; leave out stream")
                return self._answer(200, process.complete(row, request))
            except (Refused, ValueError, AttributeError) as error:
                return self._answer(400, _error(str(error)))

        def _answer(self, status: int, document: Mapping[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = QuietServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}


def main() -> None:
    """Read lines of the trainer until it closes standard input."""
    to_trainer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    begin = json.loads(sys.stdin.readline())
    process = _Process(to_trainer)
    try:
        module, _, name = begin["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
    except BaseException as error:
        process.send(broken=f"{type(error).__name__}: {error}"[:300])
        return
    given = {"arguments": begin["arguments"], "port": _server(process).server_address[1]}
    process.send(ready=True)
    for line in sys.stdin:
        process.take(json.loads(line), function, given)
    os._exit(0)  # threads of the function may go on for ever


if __name__ == "__main__":
    main()
