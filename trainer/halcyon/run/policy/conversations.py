"""Conversations of the rows of a batch with a function of the user, on process 0.

The function runs in a process of its own (`halcyon.run.policy.environment_process`). The rows talk in rounds: in a
round each row that waits for the model is decoded, then its function gets the answer and says what follows. The tokens
of the model are never made again from a text; what follows them is rendered by the chat template as the end of a short
conversation.
"""

import contextlib
import datetime as dt
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from halcyon.data.formats.template import ChatTemplate, DoesNotFit, Rendered, prompt_tokens
from halcyon.host.errors import BadConfiguration
from halcyon.host.limits.apart import OverLimit
from halcyon.inference.rollout import Answered
from halcyon.inference.tool_calls import CallReader, form_of
from halcyon.run.policy.answers import Question
from halcyon.run.policy.rewards import FIELD
from halcyon.tokenizer import Tokenizer
from halcyon.tokenizer.rendered import RenderedText
from halcyon_api.spec.objective import PolicySpec

_START_SECONDS = 120.0
_WORDS = "halcyon"
_JUDGE = "halcyon.run.policy.judge:judge"


ANSWERED = "answered"


class Outcome(NamedTuple):
    """How the conversation of a row ended."""

    kind: str
    """`ANSWERED` or a failure."""
    why: str = ""
    """A sentence about a failure."""
    reward: float = 0.0


class Failed(Exception):
    """A conversation cannot go on."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Child:
    """The process of an environment.

    Args:
        policy: The objective, with ``environment``.

    Raises:
        BadConfiguration: Its function cannot be imported.
    """

    def __init__(self, policy: PolicySpec) -> None:
        assert policy.environment is not None  # noqa: S101 - the caller has checked it
        self._seconds = policy.environment.timeout_seconds
        command = [sys.executable, "-m", "halcyon.run.policy.environment_process"]
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        function = _JUDGE if policy.reward == "judge" else policy.reward
        self._send(function=function, arguments=policy.environment.arguments)
        try:
            first = self._lines.get(timeout=_START_SECONDS) or {"broken": "its process has ended"}
        except queue.Empty:
            first = {"broken": f"it was not imported in {_START_SECONDS:g} s"}
        if "broken" in first:
            self.close()
            raise BadConfiguration(f"{FIELD}: {policy.reward} cannot be used: {first['broken']}")

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._popen.poll() is not None

    def tell(self, row: str, **line: Any) -> None:
        """Begin the conversation of a row with its ``prompt`` and ``reference``, or give it the ``completion`` of its
        request, or the sentence of a ``refused`` one."""
        self._send(row=row, **line)

    def heard(self, rows: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The next line of each row: a request, a reward, or a failure."""
        found: dict[str, dict[str, Any]] = {}
        missing, until = set(rows), time.monotonic() + self._seconds
        while missing:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                late = {"timedOut": f"no word from it for {self._seconds:g} s"}
                return found | dict.fromkeys(missing, late)
            if line is None:
                self._lines.put(None)
                return found | {row: {"failed": f"its process ended ({self._popen.wait()})"} for row in missing}
            if line.get("row") in missing:
                missing.remove(line["row"])
                found[line["row"]] = line
        return found

    def close(self) -> None:
        """End the process."""
        self._popen.kill()
        self._popen.wait()
        with contextlib.suppress(OSError):  # what was not written yet has no reader
            assert self._popen.stdin is not None  # noqa: S101
            self._popen.stdin.close()
        self._reader.join()

    def _send(self, **line: Any) -> None:
        with contextlib.suppress(OSError):  # the end of the process is read as the end of its lines
            assert self._popen.stdin is not None  # noqa: S101
            self._popen.stdin.write(json.dumps(line) + "\n")
            self._popen.stdin.flush()

    def _read(self) -> None:
        assert self._popen.stdout is not None  # noqa: S101
        with self._popen.stdout as lines:
            for line in lines:
                self._lines.put(json.loads(line))
        self._lines.put(None)


class Template:
    """Conversations as tokens, and tokens as messages.

    Args:
        tokenizer: The tokenizer.
        template: The chat template of the data. None: Halcyon's own.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(template, tokenizer, "the chat template", _no_time)
        takes_tools = template is not None and self._template.uses("tools")
        self._form = form_of(template) if takes_tools and template is not None else None
        turn = self._template.turn_end()
        self._turn = None if turn is None else turn.id
        marks = frozenset[str]() if self._form is None else self._form.marks
        self._special = {token: name if name in marks else "" for name, token in tokenizer.special_tokens.items()}

    def prompt(self, request: Mapping[str, Any]) -> list[int]:
        """The tokens of the first request of a row.

        Raises:
            Failed: The template does not take it.
        """
        return prompt_tokens(self._rendered(request["messages"], request.get("tools")), self._tokenizer).tolist()

    def following(self, later: Sequence[Mapping[str, Any]], tools: Any, last: int) -> list[int]:
        """The tokens between an answer of the model and its next one.

        Args:
            later: The messages between them.
            tools: The tools of the request.
            last: The last token of the answer.

        Raises:
            Failed: The template does not take the messages.
        """
        before = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _WORDS}]
        text, special, spells = self._rendered([*before, *later], tools).text
        if _WORDS not in text:
            raise Failed("failed", "the chat template does not print the answers of the model")
        end = text.find(_WORDS) + len(_WORDS)
        ends = [span for span in special if span[0] >= end and not text[end : span[0]].strip()]
        if last == self._turn and ends:
            end = ends[0][1]
        rest = [(first - end, after - end) for first, after in special if first >= end]
        return self._tokenizer.encode_rendered([RenderedText(text[end:], rest, spells)])[0].tokens.tolist()

    def _rendered(self, messages: Sequence[Mapping[str, Any]], tools: Any) -> Rendered:
        others = {one.get("role") for one in messages} - {"system", "user", "assistant"}
        if self._template.is_own and others:
            raise Failed("failed", "Halcyon's own template has no messages of tools; let a tool answer as the user")
        try:
            return self._template.render(messages, tools, to_generate=True)
        except (DoesNotFit, OverLimit) as error:
            raise Failed("failed", f"the chat template does not take the messages: {error}") from None

    def message(
        self, tokens: Sequence[int], tools: Sequence[Mapping[str, Any]] | None, place: int = 0
    ) -> dict[str, Any]:
        """An answer of the model as a message of OpenAI's protocol; its place makes the ids of calls, which some
        templates print."""
        text, plain = "", list[int]()
        for token in (*tokens, None):
            if token is not None and token not in self._special:
                plain.append(token)
                continue
            text += self._tokenizer.decode(np.array(plain, np.int32)) if plain else ""
            text, plain = text + ("" if token is None else self._special[token]), []
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._form is not None and tools:
            functions = {tool["function"].get("name"): tool["function"].get("parameters") or {} for tool in tools}
            shown, calls = CallReader(self._form, functions, forced=False, named=None).push(text, last=True)
            message["content"] = shown
            if calls:
                message["tool_calls"] = [
                    call._replace(id=f"call{place:04d}{number}").document() for number, call in enumerate(calls)
                ]
        return message


def _no_time() -> dt.datetime:
    return dt.datetime(2026, 1, 1)


def _check(request: Mapping[str, Any]) -> None:
    """Check a request of a function, which may be anything.

    Raises:
        Failed: It has no messages, or other members than those of OpenAI's protocol.
    """

    def are_objects(found: Any) -> bool:
        return isinstance(found, list) and all(isinstance(one, dict) for one in found)

    messages, tools = request.get("messages"), request.get("tools") or []
    if (
        not messages
        or not are_objects(messages)
        or not all(are_objects(one.get("tool_calls") or []) for one in messages)
    ):
        raise Failed("failed", "a request has no messages; give a list of objects with role and content")
    if not are_objects(tools) or not all(isinstance(one.get("function"), dict) for one in tools):
        raise Failed("failed", "tools of a request are no list of functions; describe them as OpenAI's protocol does")


def _said(message: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a message says; clients add and leave out other members."""
    calls = [(call.get("id"), call.get("function")) for call in message.get("tool_calls") or ()]
    return message.get("role"), message.get("content") or "", calls, message.get("tool_call_id")


class Conversations:
    """The conversations of the rows of a batch, on process 0; see `halcyon.inference.rollout.Replies`.

    Args:
        child: The process of the environment.
        template: The chat template.
        batch: Distinguishes the rows of one batch from those of another.
        asked: The prompt of each row.
        texts: The text of each prompt.
        width: Room for a prompt, in tokens.
    """

    def __init__(
        self, child: Child, template: Template, batch: str, asked: Sequence[Question], texts: Sequence[str], width: int
    ) -> None:
        self._child, self._template, self._names = child, template, [f"{batch}-{row}" for row in range(len(asked))]
        self._requests: dict[int, dict[str, Any]] = {}
        self._begun = dict[int, int]()
        """The place after the tokens that the row has seen as answers or words."""
        self._said: dict[int, list[dict[str, Any]]] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.prompts = [one.tokens.tolist() for one in asked]
        """The tokens of the prompt of each row."""
        for row, (one, text) in enumerate(zip(asked, texts, strict=True)):
            child.tell(self._names[row], prompt=text, reference=one.reference)
        self._hear(range(len(asked)))
        for row, request in list(self._requests.items()):
            if request["messages"] == [{"role": "user", "content": texts[row]}] and not request.get("tools"):
                continue
            with self._failing(row):
                tokens = template.prompt(request)
                if not 0 < len(tokens) <= width:
                    raise Failed("tooLong", f"the prompt has {len(tokens)} tokens, and there is room for {width}")
                self.prompts[row] = tokens

    @property
    def is_lost(self) -> bool:
        """Whether the process of the environment has ended, so that it can be asked again."""
        return self._child.has_ended

    def replies(self, rows: Sequence[int], tokens: np.ndarray, counts: np.ndarray) -> dict[int, list[int]]:
        """What follows in rows whose turn of the model has ended."""
        talking = [row for row in rows if row in self._requests and row not in self.outcomes]
        asked = {row: self._complete(row, tokens[row, : counts[row]], "stop") for row in talking}
        self._hear(talking)
        found: dict[int, list[int]] = {}
        for row in talking:
            if (request := self._requests.get(row)) is None or row in self.outcomes:
                continue
            with self._failing(row):
                messages, before = request["messages"], asked[row]
                if len(messages) <= len(before) or [*map(_said, before)] != [*map(_said, messages[: len(before)])]:
                    raise Failed("failed", "a request does not begin with the conversation so far")
                last = int(tokens[row, counts[row] - 1])
                found[row] = self._template.following(messages[len(before) :], request.get("tools"), last)
                self._begun[row] = int(counts[row]) + len(found[row])
                if self._begun[row] >= tokens.shape[1]:
                    raise Failed("tooLong", f"the conversation has more than {tokens.shape[1]} tokens")
        return {row: reply for row, reply in found.items() if row not in self.outcomes}

    def finish(self, answered: Answered) -> list[Outcome]:
        """The outcome of each row, after its last token."""
        cut = [row for row in self._requests if row not in self.outcomes]
        for row in cut:
            self._complete(row, answered.tokens[row, : answered.counts[row]], "length")
        self._hear(cut)
        for row in list(self._requests):
            with self._failing(row):
                raise Failed("tooLong", f"the conversation has more than {answered.tokens.shape[1]} tokens")
        return [self.outcomes[row] for row in range(len(self._names))]

    def _complete(self, row: int, tokens: np.ndarray, reason: str) -> list[dict[str, Any]]:
        """Give a row the answer to its request; returns the conversation with it."""
        request, begun = self._requests.pop(row), self._begun.get(row, 0)
        message = self._template.message(tokens[begun:].tolist(), request.get("tools"), begun)
        finish = "tool_calls" if message.get("tool_calls") else reason
        choice = {"index": 0, "message": message, "finish_reason": finish, "token_ids": tokens[begun:].tolist()}
        self._child.tell(
            self._names[row],
            completion={
                "id": self._names[row],
                "object": "chat.completion",
                "created": 0,
                "model": "policy",
                "choices": [choice],
                "usage": {
                    "prompt_tokens": len(self.prompts[row]) + begun,
                    "completion_tokens": len(tokens) - begun,
                    "total_tokens": len(self.prompts[row]) + len(tokens),
                },
            },
        )
        return [*request["messages"], message]

    def _hear(self, rows: Iterable[int]) -> None:
        """Wait until each row has asked the model, or has ended."""
        of_name = {self._names[row]: row for row in rows}
        for name, line in self._child.heard(of_name).items():
            row = of_name[name]
            if "request" in line:
                self._requests[row] = line["request"]
                with self._failing(row):
                    _check(line["request"])
            elif "reward" in line:
                self.outcomes[row] = Outcome(ANSWERED, reward=line["reward"])
            else:
                kind = next(kind for kind in ("timedOut", "failed") if kind in line)
                self.outcomes[row] = Outcome(kind, line[kind])

    @contextlib.contextmanager
    def _failing(self, row: int) -> Any:
        """A failure ends the conversation of a row."""
        try:
            yield
        except Failed as failure:
            self.outcomes[row] = Outcome(failure.kind, str(failure))
            self._requests.pop(row, None)
            self._child.tell(self._names[row], refused=str(failure))
