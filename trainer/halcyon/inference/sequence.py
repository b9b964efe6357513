"""A sequence: a prompt and the text after it, the tokens that an engine gives it, and the output that they bring."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from halcyon.inference.pages import Prefix
from halcyon.inference.programs import PromptLogs
from halcyon.inference.sampling import Sampling
from halcyon.inference.text import StopStrings, TextStream
from halcyon.tokenizer import Tokenizer

CHUNKS = (16, 64, 256)
"""Sizes of the parts of a prompt that are computed at once. A last, shorter part is padded to one of these sizes."""
_SHORT_CHUNK, _SHORT_UNTIL = 64, 256
"""Chunks that begin before `_SHORT_UNTIL` have `_SHORT_CHUNK` tokens, so that short prompts can share a beginning.
Later chunks have the largest size."""
PAGE = 16
"""Positions of a page, as in `halcyon.models.cache.Cache.of`."""

Finish = Literal["stop", "length"]
"""Why a text ended: at a token or a string that ends it, or at its greatest length."""
Fault = Literal["failed", "draining", "grammar"]
"""Why a text cannot end: a fault of the server, its end, or a grammar that is too complex."""


class Token(NamedTuple):
    """The next token of a sequence."""

    sequence: int
    """The number of the sequence in its engine."""
    id: int
    log_prob: float
    """The logarithm of the model's probability of the token, before temperature, filters and penalties."""
    alternatives: tuple[tuple[int, float], ...]
    """The most likely tokens, with the logarithms of their probabilities."""
    finish: Finish | None
    """Why this token is the last. None: it is not."""
    reused: int = 0
    """Tokens of the prompt that an earlier sequence had computed."""


@dataclass(frozen=True)
class Output:
    """What is new of a text.

    Attributes:
        text: It may be empty: a part of a character, or of a stop string, waits.
        tokens: The tokens whose text this and earlier outputs show, each once; none without `Sequence.logs`.
        finish: Why the text ends here. None: it goes on.
        fault: Why the text cannot go on. None: it can.
        generated: Tokens of the text until here, with those that ended it.
        reused: Tokens of the prompt that an earlier sequence had computed.
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish: Finish | None = None
    fault: Fault | None = None
    generated: int = 0
    reused: int = 0

    @property
    def is_last(self) -> bool:
        """Whether no output follows."""
        return self.finish is not None or self.fault is not None

    def joined(self, later: Output) -> Output:
        """This output and the next one as one."""
        return replace(later, text=self.text + later.text, tokens=self.tokens + later.tokens)


def _unread(_: Output) -> None:
    """Takes the outputs of a sequence that nobody reads."""


class Grammar(Protocol):
    """Tokens that may follow in the text of one sequence."""

    def allow(self, words: np.ndarray) -> None:
        """Set the bits of the tokens that may come next: int32 [word], the lowest bit of a word first.

        All bits are 1 before.
        """
        ...

    def accept(self, token: int) -> None:
        """Take the next token, which was allowed."""
        ...


@dataclass(eq=False)
class Sequence:
    """A prompt and the text after it. It belongs to the thread of its engine from `halcyon.inference.Engine.add` on.

    Attributes:
        prompt: Token ids: int32 [tokens].
        sampling: Its settings.
        ends: Tokens that end the text.
        grammar: Tokens that may follow; of no other sequence. None: all.
        salt: What is computed for the prompt is shared only with sequences of the same salt.
        spelled: Special tokens that show in the text, with their spellings. Others do not show.
        images: Pixels of the images whose tokens are in the prompt, uint8 [image, row, column, colour]. None: none.
        logs: Whether outputs have their tokens.
        logs_prompt: Whether `prompt_logs` is filled. Its prompt is then computed whole.
        push: Takes the outputs.
        began: When its request came, in seconds of the monotonic clock.
        first: When its first token was taken.
    """

    prompt: np.ndarray
    sampling: Sampling
    ends: frozenset[int] = frozenset()
    grammar: Grammar | None = None
    salt: bytes = b""
    spelled: Mapping[int, str] = field(default_factory=dict[int, str])
    images: np.ndarray | None = None
    logs: bool = False
    logs_prompt: bool = False
    push: Callable[[Output], None] = _unread
    began: float = field(default_factory=time.monotonic)
    first: float = 0.0
    is_over: bool = False
    number: int = -1
    """Its number in its engine."""
    alternatives: int = 0
    """Most likely tokens that are reported with each token."""
    is_image: np.ndarray | None = None
    """bool [token]: the tokens of the images in the prompt. None: there are none."""
    seen: Any = None
    """What the encoder made of these tokens: [token of an image, embed]."""
    shared: list[Prefix] = field(default_factory=list[Prefix])
    """The chunks that it shares, from the beginning of the prompt."""
    pages: list[int] = field(default_factory=list[int])
    """Its own pages, after those of the shared chunks."""
    computed: int = 0
    """Tokens of the prompt that are computed."""
    reused: int = 0
    """Tokens of the prompt that an earlier sequence had computed."""
    is_marked: bool = True
    """Whether the slot has the tokens of the shared chunks, for the repetition penalty."""
    prompt_logs: list[PromptLogs] = field(default_factory=list[PromptLogs])
    """Logs of the tokens of the prompt from the second one on, complete before the first token of the text."""
    generated: int = 0
    """Tokens that the engine has computed."""
    taken: int = 0
    """Tokens that `take` has got; the engine may be some tokens ahead."""
    _stream: TextStream = field(init=False, repr=False)
    _stops: StopStrings = field(init=False, repr=False)
    _waiting: list[tuple[int, Token]] = field(init=False, default_factory=list[tuple[int, Token]])
    """Tokens whose text does not show yet, each with the place where it begins."""
    _decoded: int = field(init=False, default=0)
    _shown: int = field(init=False, default=0)

    @property
    def tokens(self) -> int:
        """Tokens of prompt and text at most."""
        return len(self.prompt) + self.sampling.max_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether its prompt is computed."""
        return self.computed == len(self.prompt)

    @property
    def chunk(self) -> np.ndarray:
        """The tokens of the prompt that are computed next. No image is cut: its tokens see each other."""
        end = self.computed + self._chunk_size
        if self.is_image is not None:
            inside = self.is_image[1:] & self.is_image[:-1]
            cuts = [*(np.flatnonzero(~inside) + 1).tolist(), len(self.prompt)]
            after = [place for place in cuts if place > self.computed] or [self.computed]
            end = max((place for place in after if place <= end), default=after[0])
        return self.prompt[self.computed : end]

    @property
    def is_whole(self) -> bool:
        """Whether the next chunk is not cut by the end of the prompt."""
        return len(self.chunk) == self._chunk_size

    @property
    def _chunk_size(self) -> int:
        return _SHORT_CHUNK if self.computed < _SHORT_UNTIL else CHUNKS[-1]

    def begin(self, tokenizer: Tokenizer) -> None:
        """Prepare `take`.

        Args:
            tokenizer: Decodes the tokens.
        """
        self._stream, self._stops = TextStream(tokenizer, self.prompt[-16:].tolist()), StopStrings(self.sampling.stop)

    def take(self, token: Token) -> Output:
        """The output that a token brings."""
        self.taken += 1
        if self.taken == 1:
            self.first = time.monotonic()
        ends = token.finish == "stop"
        if self.logs and not ends:
            self._waiting.append((self._decoded, token))
        spelling = self.spelled.get(token.id)
        text = ""
        if not ends:
            text = self._stream.push(token.id) if spelling is None else self._stream.finish() + spelling
        if token.finish is not None:
            text += self._stream.finish()
        self._decoded += len(text)
        shown, stopped = self._stops.push(text)
        finish: Finish | None = "stop" if stopped else token.finish
        if finish is not None and not stopped:
            shown += self._stops.finish()
        self._shown += len(shown)
        everything = finish is not None and not stopped
        ready = tuple(token for start, token in self._waiting if everything or start < self._shown)
        self._waiting = self._waiting[len(ready) :]
        if finish is not None and getattr(self.grammar, "failure", ""):
            return Output(shown, ready, fault="grammar", generated=self.taken, reused=token.reused)
        return Output(shown, ready, finish, generated=self.taken, reused=token.reused)
