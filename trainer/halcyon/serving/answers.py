"""The JSON of answers, in OpenAI's form: whole ones and the events of streams."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from halcyon.serving.errors import ApiError, draining, failed
from halcyon.serving.preparing import Prepared
from halcyon.serving.questions import ChatQuestion, Question
from halcyon.serving.sequence import Fault, Part, TokenShown
from halcyon.serving.served import Served
from halcyon.serving.tools import Call, CallReader

_LEAST_LOG_PROB = -9999.0
"""In the place of minus infinity, which JSON does not have."""
DONE = b"data: [DONE]\n\n"


def fault_error(fault: Fault) -> ApiError:
    """The error for a text that could not end."""
    if fault == "draining":
        return draining()
    if fault == "grammar":
        return ApiError(400, "response_format: the JSON schema became too complex for this text; make it simpler", param="response_format")
    return failed()


def event(document: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(document) + b"\n\n"


@dataclass
class _Choice:
    """What a choice has until now."""

    reader: CallReader | None
    text: str = ""
    calls: list[Call] = field(default_factory=list[Call])
    tokens: list[TokenShown] = field(default_factory=list[TokenShown])
    finish: str | None = None
    generated: int = 0
    reused: int = 0
    offset: int = 0
    """Characters of the text whose tokens were reported; for completions."""


class Answer:
    """Joins the parts of a request's texts, and writes them.

    Args:
        question: The request.
        prepared: Its texts.
        served: The model.
        number: The id of the answer.
        created: When the request came, in seconds since 1970.
    """

    def __init__(self, question: Question, prepared: Prepared, served: Served, number: str, created: int) -> None:
        self._question, self._prepared, self._served = question, prepared, served
        self._is_chat = isinstance(question, ChatQuestion)
        self._head = {
            "id": f"chatcmpl-{number}" if self._is_chat else f"cmpl-{number}",
            "created": created,
            "model": served.name,
            "system_fingerprint": served.fingerprint,
        }
        self._names = {token: spelling for spelling, token in served.tokenizer.special_tokens.items()}
        forced = bool(prepared.forced)
        self._choices = [_Choice(CallReader(prepared.tools, forced=forced) if prepared.tools is not None else None) for _ in prepared.tasks]

    def add(self, index: int, part: Part) -> tuple[str, list[Call]]:
        """Add a part of a text: the text and the calls to show.

        Raises:
            ApiError: The text cannot end.
        """
        if part.fault is not None:
            raise fault_error(part.fault)
        choice = self._choices[index]
        text, calls = (part.text, []) if choice.reader is None else choice.reader.push(part.text, last=part.is_last)
        choice.text += text
        choice.calls += calls
        choice.generated, choice.reused = part.generated, max(choice.reused, part.reused)
        if part.finish is not None:
            choice.finish = "tool_calls" if choice.calls else part.finish
        return text, calls

    def keep(self, index: int, part: Part) -> None:
        """Add a part to the whole answer."""
        self.add(index, part)
        self._choices[index].tokens += part.tokens

    @property
    def usage(self) -> dict[str, Any]:
        """The numbers of tokens."""
        generated = sum(choice.generated for choice in self._choices)
        # The choices of a prompt share it; the first one shows what earlier requests had computed.
        each = max(1, self._question.n or 1)
        reused = sum(choice.reused for choice in self._choices[::each])
        return {
            "prompt_tokens": self._prepared.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self._prepared.prompt_tokens + generated,
            "prompt_tokens_details": {"cached_tokens": reused},
        }

    def whole(self) -> dict[str, Any]:
        """The answer that is not streamed."""
        kind = "chat.completion" if self._is_chat else "text_completion"
        return self._head | {"object": kind, "choices": [self._whole(index) for index in range(len(self._choices))], "usage": self.usage}

    def _whole(self, index: int) -> dict[str, Any]:
        choice = self._choices[index]
        common = {"index": index, "finish_reason": choice.finish, "logprobs": self._log_probs(index, choice.tokens)}
        if not self._is_chat:
            return common | {"text": self._prepared.echoes[index] + choice.text}
        message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message |= {"tool_calls": [call.document() for call in choice.calls], "content": choice.text.strip() or None}
        return common | {"message": message}

    def begin(self) -> list[dict[str, Any]]:
        """The first events of a stream: the role of each message, or the prompt that is to be repeated."""
        events: list[dict[str, Any]] = []
        for index in range(len(self._choices)):
            if self._is_chat:
                events.append(self._chunk(index, {"role": "assistant", "content": "", "refusal": None}, None, None))
            elif self._prepared.echoes[index]:
                events.append(self._chunk(index, self._prepared.echoes[index], None, None))
        return events

    def chunks(self, index: int, part: Part) -> list[dict[str, Any]]:
        """The events of a part.

        Raises:
            ApiError: The text cannot end.
        """
        choice = self._choices[index]
        called = len(choice.calls)
        text, calls = self.add(index, part)
        tokens = self._log_probs(index, part.tokens) if part.tokens else None
        events: list[dict[str, Any]] = []
        if self._is_chat:
            if text or tokens is not None:
                events.append(self._chunk(index, {"content": text}, tokens, None))
            if calls:
                shown = [call.document(called + number) for number, call in enumerate(calls)]
                events.append(self._chunk(index, {"tool_calls": shown}, None, None))
            if choice.finish is not None:
                events.append(self._chunk(index, {}, None, choice.finish))
        elif text or tokens is not None or choice.finish is not None:
            events.append(self._chunk(index, text, tokens, choice.finish))
        return events

    def end(self) -> list[dict[str, Any]]:
        """The last events of a stream."""
        if not self._question.wants_usage:
            return []
        return [self._head | {"object": self._kind, "choices": [], "usage": self.usage}]

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _chunk(self, index: int, content: Any, log_probs: Any, finish: str | None) -> dict[str, Any]:
        field_name = "delta" if self._is_chat else "text"
        choice = {"index": index, field_name: content, "logprobs": log_probs, "finish_reason": finish}
        usage = {"usage": None} if self._question.wants_usage else {}
        return self._head | {"object": self._kind, "choices": [choice]} | usage

    def _log_probs(self, index: int, tokens: list[TokenShown] | tuple[TokenShown, ...]) -> dict[str, Any] | None:
        if not self._prepared.tasks[index].logs:
            return None
        return self._chat_log_probs(tokens) if self._is_chat else self._text_log_probs(index, tokens)

    def _chat_log_probs(self, tokens: list[TokenShown] | tuple[TokenShown, ...]) -> dict[str, Any]:
        return {
            "content": [
                self._entry(one.token, one.log_prob) | {"top_logprobs": [self._entry(*other) for other in one.alternatives]}
                for one in tokens
            ],
            "refusal": None,
        }

    def _text_log_probs(self, index: int, tokens: list[TokenShown] | tuple[TokenShown, ...]) -> dict[str, Any]:
        choice, offsets = self._choices[index], []
        for one in tokens:
            offsets.append(choice.offset)
            choice.offset += len(self._spelling(one.token))
        return {
            "tokens": [self._spelling(one.token) for one in tokens],
            "token_logprobs": [_finite(one.log_prob) for one in tokens],
            "top_logprobs": [{self._spelling(token): _finite(value) for token, value in one.alternatives} for one in tokens],
            "text_offset": offsets,
        }

    def _entry(self, token: int, log_prob: float) -> dict[str, Any]:
        piece = self._served.pieces[token]
        return {"token": self._spelling(token), "logprob": _finite(log_prob), "bytes": list(piece)}

    def _spelling(self, token: int) -> str:
        return self._names.get(token) or self._served.tokenizer.decode(np.array([token], np.int32))


def _finite(log_prob: float) -> float:
    return max(log_prob, _LEAST_LOG_PROB) if not math.isnan(log_prob) else _LEAST_LOG_PROB
