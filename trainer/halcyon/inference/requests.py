"""The requests of an engine, and the tokens that they get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from halcyon.inference.pages import Prefix
from halcyon.inference.sampling import Sampling

CHUNKS = (16, 64, 256)
"""Sizes of the parts of a prompt that are computed at once. A last, shorter part is padded to one of these sizes."""
_SHORT_CHUNK, _SHORT_UNTIL = 64, 256
"""Chunks that begin before `_SHORT_UNTIL` have `_SHORT_CHUNK` tokens, so that short prompts can share a beginning. Later chunks have the
largest size."""
PAGE = 16
"""Positions of a page, as in `halcyon.models.cache.Cache.of`."""

Finish = Literal["stop", "length"]
"""Why a text ended: at a token or a string that ends it, or at its greatest length."""


class Sampled(NamedTuple):
    """The next token of a request."""

    request: int
    token: int
    log_prob: float
    """The logarithm of the model's probability of the token, before temperature, filters and penalties."""
    alternatives: tuple[tuple[int, float], ...]
    """The most likely tokens, with the logarithms of their probabilities."""
    finish: Finish | None
    """Why this token is the last. None: it is not."""
    reused: int = 0
    """Tokens of the prompt that an earlier request had computed."""


class Grammar(Protocol):
    """Tokens that may follow in the text of one request."""

    def allow(self, words: np.ndarray) -> None:
        """Set the bits of the tokens that may come next: int32 [word], the lowest bit of a word first. All bits are 1 before."""
        ...

    def accept(self, token: int) -> None:
        """Take the next token, which was allowed."""
        ...


@dataclass
class Request:
    """A request that waits or is computed."""

    number: int
    prompt: np.ndarray
    sampling: Sampling
    ends: frozenset[int]
    grammar: Grammar | None
    alternatives: int
    salt: bytes = b""
    """What is computed for the prompt is shared only with requests of the same salt."""
    shared: list[Prefix] = field(default_factory=list[Prefix])
    """The chunks that it shares, from the beginning of the prompt."""
    pages: list[int] = field(default_factory=list[int])
    """Its own pages, after those of the shared chunks."""
    computed: int = 0
    """Tokens of the prompt that are computed."""
    reused: int = 0
    is_marked: bool = True
    """Whether the slot has the tokens of the shared chunks, for the repetition penalty."""
    generated: int = 0

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
        """The tokens of the prompt that are computed next."""
        size = _SHORT_CHUNK if self.computed < _SHORT_UNTIL else CHUNKS[-1]
        return self.prompt[self.computed : self.computed + size]

    @property
    def is_whole(self) -> bool:
        """Whether the next chunk is not cut by the end of the prompt."""
        return len(self.chunk) == (_SHORT_CHUNK if self.computed < _SHORT_UNTIL else CHUNKS[-1])
