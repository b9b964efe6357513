"""The text of one request while its tokens come: parts of text that are safe to send, each with its tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from halcyon.inference.engine import Finish, Grammar, Sampled
from halcyon.inference.sampling import Sampling
from halcyon.inference.text import StopStrings, TextStream
from halcyon.tokenizer import Tokenizer

Fault = Literal["failed", "draining", "grammar"]
"""Why a text cannot end: a fault of the server, its end, or a grammar that is too complex."""


class TokenShown(NamedTuple):
    """A token of a text, with the logarithm of the model's probability, and the most likely tokens in its place."""

    token: int
    log_prob: float
    alternatives: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Part:
    """A part of a text.

    Attributes:
        text: It may be empty: a part of a character, or of a stop string, waits.
        tokens: The tokens whose text this and earlier parts show, each once.
        finish: Why the text ends here. None: it goes on.
        fault: Why the text cannot go on. None: it can.
        generated: Tokens of the text until here, with those that ended it.
        reused: Tokens of the prompt that an earlier request had computed.
    """

    text: str = ""
    tokens: tuple[TokenShown, ...] = ()
    finish: Finish | None = None
    fault: Fault | None = None
    generated: int = 0
    reused: int = 0

    @property
    def is_last(self) -> bool:
        """Whether no part follows."""
        return self.finish is not None or self.fault is not None

    def joined(self, later: Part) -> Part:
        """This part and the next one as one."""
        return replace(later, text=self.text + later.text, tokens=self.tokens + later.tokens)


@dataclass(frozen=True, eq=False)
class Task:
    """A text to compute.

    Attributes:
        prompt: Token ids: int32 [tokens].
        sampling: Its settings.
        ends: Tokens that end it.
        grammar: Tokens that may follow. None: all.
        logs: Whether parts have their tokens.
    """

    prompt: np.ndarray
    sampling: Sampling
    ends: tuple[int, ...]
    grammar: Grammar | None = None
    logs: bool = False


class Sequence:
    """Makes the parts of a text from its tokens. It belongs to the engine's thread.

    Args:
        task: The text.
        tokenizer: Decodes the tokens.
    """

    def __init__(self, task: Task, tokenizer: Tokenizer) -> None:
        self.task = task
        self.generated = 0
        self.began = time.monotonic()
        self.first = 0.0
        """When the first token came, in seconds of the monotonic clock."""
        self._stream = TextStream(tokenizer, task.prompt[-16:].tolist())
        self._stops = StopStrings(task.sampling.stop)
        self._waiting: list[tuple[int, TokenShown]] = []
        self._decoded = self._shown = 0

    def take(self, sampled: Sampled) -> Part:
        """The part that a token brings."""
        self.generated += 1
        if self.generated == 1:
            self.first = time.monotonic()
        ends = sampled.finish == "stop"
        if self.task.logs and not ends:
            self._waiting.append((self._decoded, TokenShown(sampled.token, sampled.log_prob, sampled.alternatives)))
        text = "" if ends else self._stream.push(sampled.token)
        if sampled.finish is not None:
            text += self._stream.finish()
        self._decoded += len(text)
        shown, stopped = self._stops.push(text)
        finish: Finish | None = "stop" if stopped else sampled.finish
        if finish is not None and not stopped:
            shown += self._stops.finish()
        self._shown += len(shown)
        failure = getattr(self.task.grammar, "failure", "") if finish is not None else ""
        tokens = self._released(everything=finish is not None and not stopped)
        fault: Fault | None = "grammar" if failure else None
        return Part(shown, tokens, None if fault else finish, fault, self.generated, sampled.reused)

    def _released(self, *, everything: bool) -> tuple[TokenShown, ...]:
        """The tokens whose text has begun to show."""
        ready = [one for start, one in self._waiting if everything or start < self._shown]
        self._waiting = self._waiting[len(ready) :]
        return tuple(ready)
