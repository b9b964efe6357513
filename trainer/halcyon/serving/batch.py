"""The sequences of a request, and the JSON of its answer in OpenAI's form: a whole one, or the events of a stream.

Outputs of sequences come from the engine's thread to the event loop through a `Mailbox`.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson

from halcyon.inference.sequence import Fault, Output, Sequence, Token
from halcyon.serving.errors import ApiError, draining, failed, invalid
from halcyon.serving.requests import ChatRequest, Request
from halcyon.serving.served import Served
from halcyon.serving.tools import Call, CallReader, ToolsForm

_LEAST_LOG_PROB = -9999.0
"""In the place of minus infinity, which JSON does not have."""
DONE = b"data: [DONE]\n\n"


class Mailbox:
    """Holds the outputs that a client has not read yet. Those of one text are joined, so it never holds more than the
    texts themselves.

    Args:
        texts: The number of texts.
        loop: The event loop of the reader.
    """

    def __init__(self, texts: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._changed = loop, asyncio.Event()
        self._outputs: dict[int, Output] = {}
        self._unfinished = texts

    def push(self, index: int, output: Output) -> None:
        """Add an output of a text. For other threads."""
        try:
            self._loop.call_soon_threadsafe(self._put, index, output)
        except RuntimeError:  # the loop is closed: the server has ended
            return

    def _put(self, index: int, output: Output) -> None:
        present = self._outputs.get(index)
        self._outputs[index] = output if present is None else present.joined(output)
        self._changed.set()

    async def outputs(self) -> AsyncIterator[tuple[int, Output]]:
        """The outputs in order, until each text has ended."""
        while self._unfinished:
            await self._changed.wait()
            self._changed.clear()
            taken, self._outputs = self._outputs, {}
            for index, output in taken.items():
                self._unfinished -= output.is_last
                yield index, output


def fault_error(fault: Fault) -> ApiError:
    """The error for a text that could not end."""
    match fault:
        case "draining":
            return draining()
        case "grammar":
            return invalid("the JSON schema became too complex for this text; make it simpler", "response_format")
        case "failed":
            return failed()


def event(document: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(document) + b"\n\n"


class Schema(NamedTuple):
    """A JSON schema of a request."""

    field: str
    """The field that it comes from."""
    document: dict[str, Any]


@dataclass
class _Choice:
    """What a choice has until now."""

    reader: CallReader | None
    text: str = ""
    calls: list[Call] = field(default_factory=list[Call])
    tokens: list[Token] = field(default_factory=list[Token])
    finish: str | None = None
    generated: int = 0
    reused: int = 0
    offset: int = 0
    """Characters of the text whose tokens were reported; for completions."""


class Batch:
    """The sequences of one request, and the answer that their outputs make.

    Args:
        request: The request.
        served: The model.
        sequences: One for each choice: those of the first prompt, then those of the next.
        prompt_tokens: Tokens of all prompts, each counted once.
        echoes: For each choice, the text of the prompt that comes before it.
        tools: How calls of tools are written in the texts. None: texts have no calls.
        forced: Whether each text begins inside of a call, because the request demands one.
        schema: The JSON schema that the texts must follow. None: they are free.

    Attributes:
        number: The id of the answer.
        created: When the request came, in seconds since 1970.
        outcome: How the request ended; see `halcyon.serving.metrics.OUTCOMES`.
        mailbox: The outputs that the client has not read yet.
    """

    number: str
    created: int
    mailbox: Mailbox
    outcome = "cancelled"

    def __init__(
        self,
        request: Request,
        served: Served,
        sequences: tuple[Sequence, ...],
        prompt_tokens: int,
        echoes: tuple[str, ...],
        tools: ToolsForm | None = None,
        *,
        forced: bool = False,
        schema: Schema | None = None,
    ) -> None:
        self.request, self.sequences, self.schema = request, sequences, schema
        self._served, self._prompt_tokens, self._echoes = served, prompt_tokens, echoes
        self._is_chat = isinstance(request, ChatRequest)
        self._names = {token: spelling for spelling, token in served.tokenizer.special_tokens.items()}
        self._choices = [_Choice(CallReader(tools, forced=forced) if tools is not None else None) for _ in sequences]

    @functools.cached_property
    def _head(self) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.number}" if self._is_chat else f"cmpl-{self.number}",
            "created": self.created,
            "model": self._served.name,
            "system_fingerprint": self._served.fingerprint,
        }

    def add(self, index: int, output: Output) -> tuple[str, list[Call]]:
        """Add an output of a sequence: the text and the calls to show.

        Raises:
            ApiError: The text cannot end.
        """
        if output.fault is not None:
            raise fault_error(output.fault)
        choice = self._choices[index]
        text, calls = output.text, list[Call]()
        if choice.reader is not None:
            text, calls = choice.reader.push(text, last=output.is_last)
        choice.text += text
        choice.calls += calls
        choice.generated, choice.reused = output.generated, max(choice.reused, output.reused)
        if output.finish is not None:
            choice.finish = "tool_calls" if choice.calls else output.finish
        return text, calls

    def keep(self, index: int, output: Output) -> None:
        """Add an output to the whole answer."""
        self.add(index, output)
        self._choices[index].tokens += output.tokens

    @property
    def usage(self) -> dict[str, Any]:
        """The numbers of tokens."""
        generated = sum(choice.generated for choice in self._choices)
        # The choices of a prompt share it; the first one shows what earlier requests had computed.
        each = max(1, self.request.n or 1)
        reused = sum(choice.reused for choice in self._choices[::each])
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self._prompt_tokens + generated,
            "prompt_tokens_details": {"cached_tokens": reused},
        }

    def whole(self) -> dict[str, Any]:
        """The answer that is not streamed."""
        kind = "chat.completion" if self._is_chat else "text_completion"
        choices = [self._whole(index) for index in range(len(self._choices))]
        return self._head | {"object": kind, "choices": choices, "usage": self.usage}

    def _whole(self, index: int) -> dict[str, Any]:
        choice = self._choices[index]
        common = {"index": index, "finish_reason": choice.finish, "logprobs": self._log_probs(index, choice.tokens)}
        if not self._is_chat:
            return common | {"text": self._echoes[index] + choice.text}
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message["tool_calls"] = [call.document() for call in choice.calls]
            message["content"] = choice.text.strip() or None
        return common | {"message": message}

    def begin(self) -> list[dict[str, Any]]:
        """The first events of a stream: the role of each message, or the prompt that is to be repeated."""
        if self._is_chat:
            role = {"role": "assistant", "content": "", "refusal": None}
            return [self._chunk(index, role) for index in range(len(self._choices))]
        return [self._chunk(index, echo) for index, echo in enumerate(self._echoes) if echo]

    def chunks(self, index: int, output: Output) -> list[dict[str, Any]]:
        """The events of an output.

        Raises:
            ApiError: The text cannot end.
        """
        choice = self._choices[index]
        called = len(choice.calls)
        text, calls = self.add(index, output)
        tokens = self._log_probs(index, output.tokens) if output.tokens else None
        events: list[dict[str, Any]] = []
        if self._is_chat:
            if text or tokens is not None:
                events.append(self._chunk(index, {"content": text}, tokens))
            if calls:
                shown = [call.document(called + number) for number, call in enumerate(calls)]
                events.append(self._chunk(index, {"tool_calls": shown}))
            if choice.finish is not None:
                events.append(self._chunk(index, {}, finish=choice.finish))
        elif text or tokens is not None or choice.finish is not None:
            events.append(self._chunk(index, text, tokens, choice.finish))
        return events

    def end(self) -> list[dict[str, Any]]:
        """The last events of a stream."""
        if not self.request.wants_usage:
            return []
        return [self._head | {"object": self._kind, "choices": [], "usage": self.usage}]

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _chunk(self, index: int, content: Any, log_probs: Any = None, finish: str | None = None) -> dict[str, Any]:
        field_name = "delta" if self._is_chat else "text"
        choice = {"index": index, field_name: content, "logprobs": log_probs, "finish_reason": finish}
        usage = {"usage": None} if self.request.wants_usage else {}
        return self._head | {"object": self._kind, "choices": [choice]} | usage

    def _log_probs(self, index: int, tokens: list[Token] | tuple[Token, ...]) -> dict[str, Any] | None:
        if not self.sequences[index].logs:
            return None
        if self._is_chat:
            entries = [
                self._entry(token.id, token.log_prob)
                | {"top_logprobs": [self._entry(*other) for other in token.alternatives]}
                for token in tokens
            ]
            return {"content": entries, "refusal": None}
        choice, offsets, spellings = self._choices[index], [], [self._spelling(token.id) for token in tokens]
        for spelling in spellings:
            offsets.append(choice.offset)
            choice.offset += len(spelling)
        return {
            "tokens": spellings,
            "token_logprobs": [_finite(token.log_prob) for token in tokens],
            "top_logprobs": [
                {self._spelling(other): _finite(value) for other, value in token.alternatives} for token in tokens
            ],
            "text_offset": offsets,
        }

    def _entry(self, token: int, log_prob: float) -> dict[str, Any]:
        piece = self._served.pieces[token]
        return {"token": self._spelling(token), "logprob": _finite(log_prob), "bytes": list(piece)}

    def _spelling(self, token: int) -> str:
        return self._names.get(token) or self._served.tokenizer.decode(np.array([token], np.int32))


def _finite(log_prob: float) -> float:
    return max(log_prob, _LEAST_LOG_PROB) if not math.isnan(log_prob) else _LEAST_LOG_PROB
