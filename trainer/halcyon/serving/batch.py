"""The sequences of a request, and the JSON of its answer in OpenAI's form: a whole one, or the events of a stream.

Outputs of sequences come from the engine's thread to the event loop through a `Mailbox`.
"""

from __future__ import annotations

import asyncio
import codecs
import functools
import math
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson

from halcyon.inference.sequence import Fault, Output, Sequence, Token
from halcyon.inference.tool_calls import Call, CallReader
from halcyon.serving.errors import ApiError, draining, failed, invalid
from halcyon.serving.requests import ChatRequest, Request
from halcyon.serving.served import Served

_LEAST_LOG_PROB = -9999.0
"""In the place of minus infinity, which JSON does not have."""
Document = dict[str, Any]
"""A JSON object."""
Events = list[Document]
"""The events of a stream."""
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


def event(document: Document) -> bytes:
    """A server-sent event; one with a type has a name too."""
    name = f"event: {document['type']}\n".encode() if "type" in document else b""
    return name + b"data: " + orjson.dumps(document) + b"\n\n"


class Schema(NamedTuple):
    """A JSON schema of a request."""

    field: str
    """The field that it comes from."""
    document: Document


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
    places: Places | None = None
    """Where the next token stands in a completion. None: nothing of its text was reported."""


class Batch:
    """The sequences of one request, and the answer that their outputs make.

    Args:
        request: The request.
        served: The model.
        sequences: One for each choice: those of the first prompt, then those of the next.
        prompt_tokens: Tokens of all prompts, each counted once.
        echoes: For each choice, the text of the prompt that comes before it. With ``max_tokens: 0`` nothing follows:
            a token is computed, and left out.
        readers: What finds the calls of tools in each text. None: texts have no calls.
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
        readers: Iterable[CallReader | None] | None = None,
        *,
        schema: Schema | None = None,
    ) -> None:
        self.request, self.sequences, self.schema = request, sequences, schema
        self._served, self._prompt_tokens, self._echoes = served, prompt_tokens, echoes
        self._is_chat = isinstance(request, ChatRequest)
        self._names = {token: spelling for spelling, token in served.tokenizer.special_tokens.items()}
        self._choices = [_Choice(reader) for reader in readers or [None] * len(sequences)]

    @functools.cached_property
    def _head(self) -> Document:
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
        if self.request.max_tokens == 0:
            output = replace(output, text="", finish=output.finish and "length", generated=0)
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
        if self.request.max_tokens != 0:
            self._choices[index].tokens += output.tokens

    @property
    def usage(self) -> Document:
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

    def whole(self) -> Document:
        """The answer that is not streamed."""
        kind = "chat.completion" if self._is_chat else "text_completion"
        choices = [self._whole(index) for index in range(len(self._choices))]
        return self._head | {"object": kind, "choices": choices, "usage": self.usage}

    def _whole(self, index: int) -> Document:
        choice = self._choices[index]
        logs = self._log_probs(index, choice.tokens)
        common = {"index": index, "finish_reason": choice.finish, "logprobs": logs}
        if not self._is_chat:
            return common | {"text": self._echoes[index] + choice.text}
        message: Document = {"role": "assistant", "content": choice.text, "refusal": None}
        if choice.calls:
            message["tool_calls"] = [call.document() for call in choice.calls]
            message["content"] = choice.text.strip() or None
        return common | {"message": message}

    def begin(self) -> Events:
        """The first events of a stream: the role of each message."""
        if not self._is_chat:
            return []
        role = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk(index, role) for index in range(len(self._choices))]

    def chunks(self, index: int, output: Output) -> Events:
        """The events of an output.

        Raises:
            ApiError: The text cannot end.
        """
        choice = self._choices[index]
        called = len(choice.calls)
        text, calls = self.add(index, output)
        begins = choice.places is None
        found = output.tokens if self.request.max_tokens != 0 else ()
        with_prompt = begins and self.sequences[index].logs_prompt
        tokens = self._log_probs(index, found) if found or with_prompt else None
        if begins:
            text = self._echoes[index] + text
            choice.places = choice.places or Places(self._served.pieces, len(self._echoes[index]))
        events: Events = []
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

    def end(self) -> Events:
        """The last events of a stream."""
        if not self.request.wants_usage:
            return []
        return [self._head | {"object": self._kind, "choices": [], "usage": self.usage}]

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _chunk(self, index: int, content: Any, log_probs: Any = None, finish: str | None = None) -> Document:
        field_name = "delta" if self._is_chat else "text"
        choice = {"index": index, field_name: content, "logprobs": log_probs, "finish_reason": finish}
        usage = {"usage": None} if self.request.wants_usage else {}
        return self._head | {"object": self._kind, "choices": [choice]} | usage

    def _log_probs(self, index: int, tokens: Iterable[Token]) -> Document | None:
        """What is reported of some tokens of a text; the first time with those of the prompt, if they are wanted."""
        sequence, choice = self.sequences[index], self._choices[index]
        if not sequence.logs:
            return None
        if self._is_chat:
            entries = [
                self._entry(token.id, token.log_prob)
                | {"top_logprobs": [self._entry(*other) for other in _with_own(token)] if sequence.alternatives else []}
                for token in tokens
            ]
            return {"content": entries, "refusal": None}
        shown, echo = list(tokens), self._echoes[index]
        places, offsets = choice.places, list[int]()
        if places is None:
            places = choice.places = Places(self._served.pieces, len(echo))
            if sequence.logs_prompt:
                prompt = prompt_tokens(sequence)
                offsets = places_of(self._served.pieces, [token.id for token in prompt], len(echo))
                shown = [*prompt, *shown]
        is_first = bool(offsets)
        offsets += map(places.next, (token.id for token in shown[len(offsets) :]))
        logs: dict[str, list[Any]] = {
            "tokens": [self._spelling(token.id) for token in shown],
            "token_logprobs": [_finite(token.log_prob) for token in shown],
            "top_logprobs": [self._by_spelling(_with_own(token)) for token in shown],
            "text_offset": offsets,
        }
        if is_first:  # nothing stands before it that a model could expect it after
            logs["token_logprobs"][0] = logs["top_logprobs"][0] = None
        return logs

    def _by_spelling(self, tokens: Iterable[tuple[int, float]]) -> dict[str, float]:
        """Log probabilities by the spellings of tokens; the later ones of one spelling by their ids."""
        found: dict[str, float] = {}
        for token, log_prob in tokens:
            spelling = self._spelling(token)
            found[f"token_id:{token}" if spelling in found else spelling] = _finite(log_prob)
        return found

    def _entry(self, token: int, log_prob: float) -> Document:
        piece = self._names[token].encode() if token in self._names else self._served.pieces[token]
        return {"token": self._spelling(token), "id": token, "logprob": _finite(log_prob), "bytes": list(piece)}

    def _spelling(self, token: int) -> str:
        """The text of a token; of one with parts of characters its bytes, as in OpenAI's interface."""
        if token in self._names:
            return self._names[token]
        piece = self._served.pieces[token]
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


class Places:
    """Where tokens stand in a text. A part of a character stands where its character begins.

    Args:
        pieces: The bytes of text of each token.
        start: The characters before the first token.
    """

    def __init__(self, pieces: list[bytes], start: int = 0) -> None:
        self._pieces, self._decoder = pieces, codecs.getincrementaldecoder("utf-8")("replace")
        self.end = start
        """The characters of all tokens until here."""

    def next(self, token: int) -> int:
        """The characters before the next token."""
        piece, before = self._pieces[token], self.end
        self.end += len(self._decoder.decode(piece))
        try:
            return self.end - len(piece.decode())
        except UnicodeDecodeError:
            return before


def places_of(pieces: list[bytes], tokens: list[int], length: int) -> list[int]:
    """The characters before each token of a prompt.

    Args:
        pieces: The bytes of text of each token.
        tokens: The prompt.
        length: The characters of its text. A tokenizer may put a space before a text, which is not in it.
    """
    places = Places(pieces)
    found = list(map(places.next, tokens))
    return [max(0, place + length - places.end) for place in found]


def prompt_tokens(sequence: Sequence) -> list[Token]:
    """The tokens of a prompt whose logs are complete. The first one has no logs."""
    logs = [
        (log_prob, tuple(zip(tokens, values, strict=True)))
        for part in sequence.prompt_logs
        for log_prob, tokens, values in zip(*(x.tolist() for x in part), strict=True)
    ]
    given = zip(sequence.prompt.tolist(), [(0.0, ()), *logs], strict=True)
    return [Token(sequence.number, token, log_prob, others, None) for token, (log_prob, others) in given]


def _with_own(token: Token) -> list[tuple[int, float]]:
    """The most likely tokens in the place of a token, and the token itself if it is none of them."""
    is_among = any(other == token.id for other, _ in token.alternatives)
    return [*token.alternatives, *(() if is_among else ((token.id, token.log_prob),))]


def _finite(log_prob: float) -> float:
    return max(log_prob, _LEAST_LOG_PROB) if not math.isnan(log_prob) else _LEAST_LOG_PROB
