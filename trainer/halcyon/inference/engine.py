"""Computes many requests at once: each has a slot, and one program gives every slot its next token.

A request waits until a slot and the pages for its longest text are free; requests get them in their order. Its prompt is then computed in
chunks, one in each step, between the tokens of the other requests. A chunk has one of few sizes, so few programs are compiled. When a
request ends, its slot and pages are free again.

The text of a request does not depend on the other requests: a prompt is always computed alone, in the same chunks, and a token's random
numbers come from the request's own seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from halcyon.errors import BadConfiguration
from halcyon.inference.programs import Fixed, State, decode, empty, prefill
from halcyon.inference.sampling import Controls, Sampling
from halcyon.models import CausalLM
from halcyon.models.cache import KeepsCache
from halcyon_api.counting import counted

CHUNKS = (16, 64, 256)
"""Tokens of a prompt that are computed together."""
PAGE = 16
"""Positions of a page; that of `halcyon.models.cache.Cache.of`."""

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


@dataclass
class _Request:
    number: int
    prompt: np.ndarray
    sampling: Sampling
    ends: frozenset[int]
    pages: list[int] = field(default_factory=list[int])
    computed: int = 0
    """Tokens of the prompt that are computed."""
    generated: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of prompt and text at most."""
        return len(self.prompt) + self.sampling.max_tokens

    @property
    def is_decoding(self) -> bool:
        return self.computed == len(self.prompt)


class Engine:
    """Computes requests with one model. It belongs to one thread.

    Args:
        model: The model.
        slots: Requests that are computed at once.
        length: Most tokens of a prompt and its text. Default: the positions of the model.
        pages: Pages of 16 positions that all requests share. Default: enough for `slots` requests of the greatest length.
        tokens: Tokens that may be chosen are those with an id below this, such as the size of the tokenizer. Default: all.
        alternatives: Most likely tokens that are reported with each token.
        compute_dtype: Type of activations, matrix products and the cache.

    Raises:
        BadConfiguration: The model cannot keep a cache.
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        model: CausalLM,
        *,
        slots: int = 8,
        length: int | None = None,
        pages: int | None = None,
        tokens: int | None = None,
        alternatives: int = 0,
        compute_dtype: DTypeLike = jnp.float32,
    ) -> None:
        if not isinstance(model, KeepsCache):
            raise BadConfiguration(f"{type(model).__name__} keeps no cache, so it cannot generate text; give it a method new_cache")
        self.length = min(length or model.max_position.size, model.max_position.size)
        if slots < 1 or self.length < 2 or not 0 <= alternatives <= model.vocab.size:
            raise ValueError(f"{slots} slots of {self.length} tokens with {alternatives} alternatives are no engine; give larger numbers")
        self._pages_of_slot = -(-self.length // PAGE)
        self.pages = slots * self._pages_of_slot if pages is None else pages
        self._model = model
        self._fixed = Fixed(jnp.dtype(compute_dtype).name, min(tokens or model.vocab.size, model.vocab.size), alternatives)
        self._state: State = empty(model, self._fixed, slots, self.length, self.pages)
        self._free = list(range(self.pages))
        self._slots: list[_Request | None] = [None] * slots
        self._waiting: deque[_Request] = deque()
        self._following = 0

    @property
    def free_pages(self) -> int:
        """Pages that no request has."""
        return len(self._free)

    @property
    def unfinished(self) -> int:
        """Requests that wait or are computed."""
        return len(self._waiting) + sum(request is not None for request in self._slots)

    def submit(self, prompt: Sequence[int] | np.ndarray, sampling: Sampling | None = None, *, ends: Sequence[int] = ()) -> int:
        """Add a request.

        Args:
            prompt: Token ids; at least one.
            sampling: Its settings.
            ends: Tokens that end the text.

        Returns:
            The number of the request.

        Raises:
            ValueError: The prompt is empty, has an id that the model does not have, or is too long for its text.
        """
        sampling, ids = sampling or Sampling(), np.asarray(prompt, np.int32)
        if ids.ndim != 1 or not ids.size:
            raise ValueError("the prompt has no token; give at least one, such as the one that begins a document")
        if ids.min() < 0 or ids.max() >= self._model.vocab.size:
            raise ValueError(
                f"the prompt has the token {ids.max() if ids.min() >= 0 else ids.min()}; the model has 0 to {self._model.vocab.size - 1}"
            )
        request = _Request(self._following, ids, sampling, frozenset(int(end) for end in ends))
        most = min(self.length, self.pages * PAGE)
        if request.tokens > most:
            raise ValueError(
                f"a prompt of {counted(len(ids), 'token')} and a text of {sampling.max_tokens} are longer than {most} tokens; "
                "shorten the prompt, or set max_tokens lower"
            )
        self._following += 1
        self._waiting.append(request)
        return request.number

    def cancel(self, number: int) -> None:
        """End a request and free its slot and pages; nothing happens if it has ended."""
        self._waiting = deque(request for request in self._waiting if request.number != number)
        for slot, request in enumerate(self._slots):
            if request is not None and request.number == number:
                self._release(slot)

    def step(self) -> list[Sampled]:
        """Compute a chunk of a prompt, and the next token of each request whose prompt is computed.

        Returns:
            These tokens, in the order of the slots. A request whose token says why it ended is over.
        """
        self._admit()
        self._compute_prompt()
        decoding = [request if request is not None and request.is_decoding else None for request in self._slots]
        if not any(decoding):
            return []
        active = np.array([request is not None for request in decoding])
        self._state, chosen = decode(self._model, self._state, _controls(decoding), jnp.asarray(active), fixed=self._fixed)
        tokens, log_probs, top, top_log_probs = (np.asarray(x) for x in jax.device_get(chosen))
        sampled: list[Sampled] = []
        for slot, request in enumerate(decoding):
            if request is None:
                continue
            request.generated += 1
            token = int(tokens[slot])
            finish: Finish | None = "stop" if token in request.ends else None
            if finish is None and request.generated == request.sampling.max_tokens:
                finish = "length"
            others = tuple(zip(top[slot].tolist(), top_log_probs[slot].tolist(), strict=True))
            sampled.append(Sampled(request.number, token, float(log_probs[slot]), others, finish))
            if finish is not None:
                self._release(slot)
        return sampled

    def _admit(self) -> None:
        for slot, present in enumerate(self._slots):
            if present is not None or not self._waiting:
                continue
            needed = -(-self._waiting[0].tokens // PAGE)
            if needed > len(self._free):
                return  # a later request must not overtake: a long one would wait forever
            request = self._waiting.popleft()
            request.pages = [self._free.pop() for _ in range(needed)]
            self._slots[slot] = request

    def _release(self, slot: int) -> None:
        request, self._slots[slot] = self._slots[slot], None
        if request is not None:
            self._free.extend(request.pages)

    def _compute_prompt(self) -> None:
        """Compute a chunk of the prompt of the oldest request that needs it."""
        found = [(request.number, slot) for slot, request in enumerate(self._slots) if request is not None and not request.is_decoding]
        if not found:
            return
        _, slot = min(found)
        request: Any = self._slots[slot]
        rest = request.prompt[request.computed :]
        size = next((size for size in CHUNKS if size >= len(rest)), CHUNKS[-1])
        part = rest[:size]
        pages = np.full(self._pages_of_slot, self.pages, np.int32)
        pages[: len(request.pages)] = request.pages
        self._state = prefill(
            self._model,
            self._state,
            jnp.int32(slot),
            jnp.asarray(np.pad(part, (0, size - len(part)))),
            jnp.int32(len(part)),
            jnp.asarray(request.computed == 0),
            jnp.asarray(pages),
            fixed=self._fixed,
        )
        request.computed += len(part)


def _controls(requests: Sequence[_Request | None]) -> Controls:
    """The settings of all slots; those of a slot without a request are the plainest."""
    plain = Sampling(temperature=0.0)
    settings = [plain if request is None else request.sampling for request in requests]
    return Controls(
        temperature=jnp.asarray([one.temperature for one in settings], jnp.float32),
        top_k=jnp.asarray([one.top_k for one in settings], jnp.int32),
        top_p=jnp.asarray([one.top_p for one in settings], jnp.float32),
        min_p=jnp.asarray([one.min_p for one in settings], jnp.float32),
        repetition_penalty=jnp.asarray([one.repetition_penalty for one in settings], jnp.float32),
        seed=jnp.asarray([one.seed for one in settings], jnp.uint32),
        number=jnp.asarray([0 if request is None else request.generated for request in requests], jnp.int32),
    )
