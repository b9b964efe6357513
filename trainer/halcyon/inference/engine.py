"""Computes many requests at once: each has a slot, and one program gives every slot its next tokens.

A request waits until a slot and the pages for its longest text are free; requests get them in their order. Its prompt is then computed in
chunks, one in each step, between the tokens of the other requests. A chunk has one of few sizes, so few programs are compiled. When a
request ends, its slot and pages are free again.

One call of the program computes several tokens of each slot, as many as take about `CALL_SECONDS`: so a small model does not wait for
Python, and the tokens of a large one still come one at a time. `Engine.step` returns one token of each request, from a call or from those
that the last call left. While a prompt is computed, or a grammar must see each token, a call computes one token.

The text of a request does not depend on the other requests: a prompt is always computed alone, in the same chunks, and a token's random
numbers come from the request's own seed.

Requests with the same prompt that wait for it together, such as the choices of one question, get copies of what the first one computed.
Prompts that begin with the same chunks share their pages, if all layers of the model keep pages. Both hold for requests of the same salt
only. A chunk always begins and ends at the same positions and is computed by the same program, so its keys and values have the same bits
whichever request computed them, and a text is the same bit for bit with and without sharing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from halcyon.errors import BadConfiguration
from halcyon.inference.mesh import context_of, mesh_of
from halcyon.inference.pages import Pages
from halcyon.inference.programs import MOST_ENDS, MOST_STEPS, Chosen, Fixed, Plan, State, copy, empty, mark, programs_of
from halcyon.inference.requests import CHUNKS, PAGE, Finish, Grammar, Request, Sampled
from halcyon.inference.sampling import Controls, Sampling
from halcyon.models import CausalLM
from halcyon.models.apart import blocks_apart, taken_apart
from halcyon.models.cache import KeepsCache
from halcyon_api.counting import counted

CALL_SECONDS = 0.02
"""The aim for the time of a call that computes several tokens of each slot."""


class Engine:
    """Computes requests with one model. It belongs to one thread.

    Args:
        model: The model; it may be divided among devices (see `halcyon.inference.mesh`).
        slots: Requests that are computed at once.
        length: Most tokens of a prompt and its text. Default: the positions of the model.
        pages: Pages of 16 positions that all requests share. Default: enough for `slots` requests of the greatest length.
        tokens: Tokens that may be chosen are those with an id below this, such as the size of the tokenizer. Default: all.
        alternatives: Most likely tokens that are reported with each token.
        compute_dtype: Type of activations, matrix products and the cache.
        share: Whether prompts that begin alike share pages. It has no effect on texts, and none for a model with a layer that keeps no
            pages (attention with a window, gated delta nets).
        apart: Whether programs get the blocks of the model one by one; see `halcyon.models.apart`. None: if that makes them faster.
        clock: Seconds from any point; it decides how many tokens a call computes, and has no effect on texts.

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
        share: bool = True,
        apart: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not isinstance(model, KeepsCache):
            raise BadConfiguration(f"{type(model).__name__} keeps no cache, so it cannot generate text; give it a method new_cache")
        self.length = min(length or model.max_position.size, model.max_position.size)
        if slots < 1 or self.length < 2 or not 0 <= alternatives <= model.token_count:
            raise ValueError(f"{slots} slots of {self.length} tokens with {alternatives} alternatives are no engine; give larger numbers")
        self._pages_of_slot = -(-self.length // PAGE)
        self.pages = slots * self._pages_of_slot if pages is None else pages
        self._model = model
        self._fixed = Fixed(jnp.dtype(compute_dtype).name, min(tokens or model.token_count, model.token_count), alternatives)
        self._mesh = mesh_of(model)
        with context_of(self._mesh):
            self._state: State = empty(model, self._fixed, slots, self.length, self.pages)
        arrays, structure = jax.tree.flatten(blocks_apart(model) if apart else taken_apart(model) if apart is None else model)
        self._arrays, self._programs = tuple(arrays), programs_of(structure, self._fixed, self._mesh)
        self._clock, self._steps = clock, 1
        self._ready: deque[list[Sampled]] = deque()
        self._shares = share and all(group.paged for group in self._state.cache.groups.values())
        self._pool = Pages(self.pages)
        self._all_allowed = jnp.full((slots, -(-model.vocab.size // 32)), -1, jnp.int32)
        self._slots: list[Request | None] = [None] * slots
        self._waiting: deque[Request] = deque()
        self._following = 0

    @property
    def free_pages(self) -> int:
        """Pages that no request has. Some of them may hold the beginning of a prompt for later requests."""
        return self._pool.free

    @property
    def unfinished(self) -> int:
        """Requests that wait or are computed, or whose last tokens no step has returned."""
        over = {one.request for column in self._ready for one in column if one.finish is not None}
        return len(self._waiting) + self.running + len(over)

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return sum(request is not None for request in self._slots)

    def submit(
        self,
        prompt: Sequence[int] | np.ndarray,
        sampling: Sampling | None = None,
        *,
        ends: Sequence[int] = (),
        grammar: Grammar | None = None,
        salt: bytes = b"",
    ) -> int:
        """Add a request.

        Args:
            prompt: Token ids; at least one.
            sampling: Its settings.
            ends: Tokens that end the text.
            grammar: Tokens that may follow in this text; of no other request. None: all.
            salt: The request shares what is computed for its prompt only with requests of the same salt.

        Returns:
            The number of the request.

        Raises:
            ValueError: The prompt is empty, has an id that the model does not have, or is too long for its text; or the request wants more
                alternatives than the engine reports.
        """
        sampling, ids = sampling or Sampling(), np.asarray(prompt, np.int32)
        if ids.ndim != 1 or not ids.size:
            raise ValueError("the prompt has no token; give at least one, such as the one that begins a document")
        if ids.min() < 0 or ids.max() >= self._model.token_count:
            raise ValueError(
                f"the prompt has the token {ids.max() if ids.min() >= 0 else ids.min()}; the model has 0 to {self._model.token_count - 1}"
            )
        most_alternatives = self._fixed.alternatives
        alternatives = most_alternatives if sampling.alternatives is None else sampling.alternatives
        if alternatives > most_alternatives:
            raise ValueError(f"alternatives is {alternatives}; this engine reports at most {most_alternatives}")
        request = Request(self._following, ids, sampling, frozenset(int(end) for end in ends), grammar, alternatives, salt)
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
        self._ready = deque([one for one in column if one.request != number] for column in self._ready)
        self._waiting = deque(request for request in self._waiting if request.number != number)
        for slot, request in enumerate(self._slots):
            if request is not None and request.number == number:
                self._release(slot)

    def step(self) -> list[Sampled]:
        """Compute a chunk of a prompt, and the next token of each request whose prompt is computed.

        Returns:
            These tokens, in the order of the slots. A request whose token says why it ended is over.
        """
        if not self._ready:
            self._admit()
            self._compute_prompt()
            self._compute_tokens()
        return self._ready.popleft() if self._ready else []

    def _compute_tokens(self) -> None:
        """Compute the next tokens of each request whose prompt is computed."""
        decoding = [request if request is not None and request.is_decoding else None for request in self._slots]
        if not any(decoding):
            return
        plan = self._plan(decoding)
        began = self._clock()
        with context_of(self._mesh):
            self._state, chosen, steps = self._programs.decode(self._arrays, self._state, _controls(decoding), plan)
        found, count = jax.device_get((chosen, steps))
        seconds = (self._clock() - began) / count
        # At most twice as many as before: the first call may have compiled the program, or waited for the processor.
        self._steps = max(1, min(MOST_STEPS, 2 * self._steps, int(CALL_SECONDS / max(seconds, 1e-9))))
        for number in range(count):
            self._ready.append(self._taken(decoding, found, number))

    def _plan(self, decoding: Sequence[Request | None]) -> Plan:
        bound = any(request is not None and request.grammar is not None for request in decoding)
        prompts = any(request is not None and not request.is_decoding for request in self._slots)
        ends = np.full((len(decoding), MOST_ENDS), -1, np.int32)
        for row, request in zip(ends, decoding, strict=True):
            known = sorted(request.ends)[:MOST_ENDS] if request is not None else []
            row[: len(known)] = known
        array: Any = np.asarray  # the call of the program copies them to the device faster than a conversion of each
        return Plan(
            active=array([request is not None for request in decoding]),
            left=array([0 if request is None else request.sampling.max_tokens - request.generated for request in decoding], np.int32),
            ends=array(ends),
            allowed=self._allowed(decoding),
            is_bound=array(bound),
            wants_alternatives=array(any(request is not None and request.alternatives for request in decoding)),
            steps=array(1 if bound or prompts else self._steps, np.int32),
            until_end=array(bool(self._waiting)),
        )

    def _taken(self, decoding: list[Request | None], found: Chosen, number: int) -> list[Sampled]:
        """The tokens of one step. A request that ends leaves `decoding` and its slot."""
        sampled: list[Sampled] = []
        for slot, request in enumerate(decoding):
            if request is None:
                continue
            request.generated += 1
            token = int(found.tokens[number, slot])
            finish: Finish | None = "stop" if token in request.ends else None
            if finish is None and request.generated == request.sampling.max_tokens:
                finish = "length"
            if request.grammar is not None and finish is None:
                request.grammar.accept(token)
            first = slice(request.alternatives)
            tokens, log_probs = found.top_tokens[number, slot, first].tolist(), found.top_log_probs[number, slot, first].tolist()
            others = tuple(zip(tokens, log_probs, strict=True))
            sampled.append(Sampled(request.number, token, float(found.log_probs[number, slot]), others, finish, request.reused))
            if finish is not None:
                decoding[slot] = None
                self._release(slot)
        return sampled

    def _allowed(self, requests: Sequence[Request | None]) -> jax.Array:
        """int32 [slot, word]; see `decode`."""
        if all(request is None or request.grammar is None for request in requests):
            return self._all_allowed
        words = np.full(self._all_allowed.shape, -1, np.int32)
        for row, request in zip(words, requests, strict=True):
            if request is not None and request.grammar is not None:
                request.grammar.allow(row)
        return jnp.asarray(words)

    def _admit(self) -> None:
        for slot, present in enumerate(self._slots):
            if present is not None or not self._waiting:
                continue
            request = self._waiting[0]
            self._share(request)
            pages = self._pool.take(-(-request.tokens // PAGE) - request.computed // PAGE)
            if pages is None:
                self._drop(request)
                return  # a later request must not overtake: a long one would wait forever
            self._waiting.popleft()
            request.pages = pages
            self._slots[slot] = request

    def _share(self, request: Request) -> None:
        """Take the next chunks of a prompt that other requests have computed. The last token is always computed, for its logits."""
        while self._shares and request.is_whole and request.computed + len(request.chunk) < len(request.prompt):
            found = self._pool.find(request.shared[-1] if request.shared else self._pool.root(request.salt), request.chunk.tobytes())
            if found is None:
                return
            self._pool.give(request.pages[: len(found.pages)])
            request.pages = request.pages[len(found.pages) :]
            request.shared.append(found)
            request.reused += len(request.chunk)
            request.computed += len(request.chunk)
            request.is_marked = False

    def _drop(self, request: Request) -> None:
        """Take back everything that a request has."""
        for prefix in reversed(request.shared):
            self._pool.leave(prefix)
        self._pool.give(request.pages)
        request.shared, request.pages = [], []
        request.computed = request.reused = 0
        request.is_marked = True

    def _release(self, slot: int) -> None:
        request, self._slots[slot] = self._slots[slot], None
        if request is not None:
            self._drop(request)

    def _compute_prompt(self) -> None:
        """Compute a chunk of the prompt of the oldest request that needs it."""
        found = [(request.number, slot) for slot, request in enumerate(self._slots) if request is not None and not request.is_decoding]
        if not found:
            return
        _, slot = min(found)
        request: Any = self._slots[slot]
        self._share(request)
        with context_of(self._mesh):
            self._compute_chunk(request, slot)

    def _compute_chunk(self, request: Request, slot: int) -> None:
        if not request.is_marked:
            known = np.pad(request.prompt[: request.computed], (0, self.length - request.computed))
            self._state = mark(self._state, jnp.int32(slot), jnp.asarray(known), jnp.int32(request.computed))
            request.is_marked = True
        part = request.chunk
        size = min(next(size for size in CHUNKS if size >= len(part)), self._model.max_position.size)
        self._state = self._programs.prefill(
            self._arrays,
            self._state,
            jnp.int32(slot),
            jnp.asarray(np.pad(part, (0, size - len(part)))),
            jnp.int32(len(part)),
            jnp.asarray(request.computed == 0),
            jnp.int32(request.computed),
            jnp.asarray(self._pages_of(request)),
        )
        if self._shares and request.is_whole and sum(len(prefix.tokens) for prefix in request.shared) == 4 * request.computed:
            self._keep(request, part)
        request.computed += len(part)
        if request.is_decoding:
            self._hand_on(request, slot)

    def _hand_on(self, request: Request, slot: int) -> None:
        """Give what a slot has after its prompt to the requests with the same prompt, such as the choices of one question."""
        for other, found in enumerate(self._slots):
            if found is None or found.computed or found.is_decoding or found.salt != request.salt:
                continue
            if not np.array_equal(found.prompt, request.prompt):
                continue
            pages = jnp.asarray(self._pages_of(request)), jnp.asarray(self._pages_of(found))
            self._state = copy(self._state, jnp.int32(slot), jnp.int32(other), *pages)
            found.computed = found.reused = len(found.prompt)

    def _pages_of(self, request: Request) -> np.ndarray:
        """The pages of a request: int32 [page]."""
        present = [page for prefix in request.shared for page in prefix.pages] + request.pages
        pages = np.full(self._pages_of_slot, self.pages, np.int32)
        pages[: len(present)] = present
        return pages

    def _keep(self, request: Request, part: np.ndarray) -> None:
        """Offer a chunk of a prompt, which is computed, to other requests."""
        count = len(part) // PAGE
        parent = request.shared[-1] if request.shared else self._pool.root(request.salt)
        kept = self._pool.keep(parent, part.tobytes(), request.pages[:count])
        if kept is not None:
            request.shared.append(kept)
            request.pages = request.pages[count:]


def _controls(requests: Sequence[Request | None]) -> Controls:
    """The settings of all slots; those of a slot without a request are the plainest."""
    array: Any = np.asarray  # the call of the program copies them to the device faster than a conversion of each
    plain = Sampling(temperature=0.0)
    settings = [plain if request is None else request.sampling for request in requests]
    return Controls(
        temperature=array([one.temperature for one in settings], np.float32),
        top_k=array([one.top_k for one in settings], np.int32),
        top_p=array([one.top_p for one in settings], np.float32),
        min_p=array([one.min_p for one in settings], np.float32),
        repetition_penalty=array([one.repetition_penalty for one in settings], np.float32),
        seed=array([one.seed for one in settings], np.uint32),
        number=array([0 if request is None else request.generated for request in requests], np.int32),
    )
