"""Computes many sequences at once: each has a slot, and one program gives every slot its next tokens.

A sequence waits until a slot and the pages for its longest text are free; sequences get them in their order. Its prompt
is then computed in chunks, one in each step, between the tokens of the other sequences. A chunk has one of few sizes,
so few programs are compiled. When a sequence ends, its slot and pages are free again.

One call of the program computes several tokens of each slot, as many as take about `CALL_SECONDS`: so a small model
does not wait for Python, and the tokens of a large one still come one at a time. `Engine.step` returns one token of
each sequence, from a call or from those that the last call left. While a prompt is computed, or a grammar must see each
token, a call computes one token.

The text of a sequence does not depend on the other sequences: a prompt is always computed alone, in the same chunks,
and a token's random numbers come from the sequence's own seed.

Sequences with the same prompt that wait for it together, such as the choices of one request, get copies of what the
first one computed. Prompts that begin with the same chunks share their pages, if all layers of the model keep pages.
Both hold for sequences of the same salt only. A chunk always begins and ends at the same positions and is computed by
the same program, so its keys and values have the same bits whichever sequence computed them, and a text is the same bit
for bit with and without sharing.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from halcyon.host.errors import BadConfiguration
from halcyon.inference import programs
from halcyon.inference.pages import Pages
from halcyon.inference.sampling import Controls, Sampling
from halcyon.inference.sequence import CHUNKS, PAGE, Finish, Grammar, Sequence, Token
from halcyon.models import CausalLM
from halcyon.models.cache import KeepsCache
from halcyon.models.decoder import Decoder
from halcyon.models.stack import blocks_apart, taken_apart
from halcyon.parallel.device_mesh import context_of, mesh_of
from halcyon_api.counting import counted

_TYPES = {"top_k": np.int32, "seed": np.uint32}
"""Types of settings of a slot that are not float32."""
Slots = list[Sequence | None]
"""The sequence of each slot; None: it is free."""
CALL_SECONDS = 0.02
"""The aim for the time of a call that computes several tokens of each slot."""


class Engine:
    """Computes sequences with one model. It belongs to one thread.

    Args:
        model: The model; it may be divided among devices (see `halcyon.parallel.device_mesh`).
        slots: Sequences that are computed at once.
        length: Most tokens of a prompt and its text. Default: the positions of the model.
        pages: Pages of 16 positions that all sequences share. Default: enough for `slots` sequences of the greatest
            length.
        tokens: Tokens that may be chosen are those with an id below this, such as the size of the tokenizer. Default:
            all.
        alternatives: Most likely tokens that are reported with each token.
        compute_dtype: Type of activations, matrix products and the cache.
        share: Whether prompts that begin alike share pages. It has no effect on texts, and none for a model with a
            layer that keeps no pages (attention with a window, gated delta nets).
        apart: Whether programs get the blocks of the model one by one; see `halcyon.models.stack`. None: if that makes
            them faster.
        clock: Seconds from any point; it decides how many tokens a call computes, and has no effect on texts.
        ahead: Whether layers for further tokens, if the model has some, propose tokens, of which a pass of the model
            computes several. It has no effect on texts but by the rounding of products of other sizes.

    Raises:
        BadConfiguration: The model cannot keep a cache, or needs a sound.
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
        ahead: bool = True,
    ) -> None:
        model.require_decoder()
        if isinstance(model, Decoder) and not ahead:
            model = model.without_further()
        if not isinstance(model, KeepsCache):
            raise BadConfiguration(
                f"{type(model).__name__} keeps no cache, so it cannot generate text; give it a method new_cache"
            )
        if model.sound is not None:
            raise BadConfiguration("the model writes what it hears, and no other text; use `halcyon transcribe`")
        self.length = min(length or model.max_position.size, model.max_position.size)
        if slots < 1 or self.length < 2 or not 0 <= alternatives <= model.token_count:
            raise ValueError(
                f"{slots} slots of {self.length} tokens with {alternatives} alternatives are no engine; give larger "
                "numbers"
            )
        self._pages_of_slot = -(-self.length // PAGE)
        self.pages = slots * self._pages_of_slot if pages is None else pages
        self._model = model
        further = model.design.further if isinstance(model, Decoder) else None
        self._fixed = programs.Fixed(
            jnp.dtype(compute_dtype).name,
            min(tokens or model.token_count, model.token_count),
            alternatives,
            0 if further is None else further.count,
        )
        self.proposed = self.accepted = 0
        """Tokens that layers for further tokens have proposed, and how many of them are in texts."""
        self._mesh = mesh_of(model)
        with context_of(self._mesh):
            self._state: programs.State = programs.empty(model, self._fixed, slots, self.length, self.pages)
        arrays, structure = jax.tree.flatten(
            blocks_apart(model) if apart else taken_apart(model) if apart is None else model
        )
        self._arrays, self._programs = tuple(arrays), programs.programs_of(structure, self._fixed, self._mesh)
        self._clock, self._steps = clock, 1
        self._ready: deque[list[Token]] = deque()
        self._shares = share and all(group.paged for group in self._state.cache.groups.values())
        self._pool = Pages(self.pages)
        self._all_allowed = jnp.full((slots, -(-model.vocab.size // 32)), -1, jnp.int32)
        self._slots: Slots = [None] * slots
        self._waiting: deque[Sequence] = deque()
        self._following = 0

    @property
    def free_pages(self) -> int:
        """Pages that no sequence has. Some of them may hold the beginning of a prompt for later sequences."""
        return self._pool.free

    @property
    def unfinished(self) -> int:
        """Sequences that wait or are computed, or whose last tokens no step has returned."""
        over = {one.sequence for column in self._ready for one in column if one.finish is not None}
        return len(self._waiting) + self.running + len(over)

    @property
    def running(self) -> int:
        """Sequences that have a slot."""
        return sum(sequence is not None for sequence in self._slots)

    def submit(
        self,
        prompt: Collection[int] | np.ndarray,
        sampling: Sampling | None = None,
        *,
        ends: Collection[int] = (),
        grammar: Grammar | None = None,
        salt: bytes = b"",
        images: np.ndarray | None = None,
    ) -> int:
        """Add a sequence of some token ids; the arguments are those of `Sequence`.

        Returns:
            The number of the sequence.

        Raises:
            ValueError: See `add`.
        """
        ids, final = np.asarray(prompt, np.int32), frozenset(map(int, ends))
        return self.add(Sequence(ids, sampling or Sampling(), final, grammar, salt, images=images))

    def add(self, sequence: Sequence) -> int:
        """Add a sequence that no engine has had.

        Returns:
            Its number.

        Raises:
            ValueError: The prompt is empty, has an id that the model does not have, or is too long for its text; or the
                sequence wants more alternatives than the engine reports, or logs of its prompt and it reports none.
        """
        ids, sampling = sequence.prompt, sequence.sampling
        if ids.ndim != 1 or not ids.size:
            raise ValueError("the prompt has no token; give at least one, such as the one that begins a document")
        if ids.min() < 0 or ids.max() >= self._model.token_count:
            raise ValueError(
                f"the prompt has the token {ids.max() if ids.min() >= 0 else ids.min()}; the model has 0 to "
                f"{self._model.token_count - 1}"
            )
        if sequence.images is not None:
            self._check_images(sequence, sequence.images)
        most_alternatives = self._fixed.alternatives
        if sequence.logs_prompt and not most_alternatives:
            raise ValueError("this engine reports no alternatives, so it has no log probabilities of a prompt")
        alternatives = most_alternatives if sampling.alternatives is None else sampling.alternatives
        if alternatives > most_alternatives:
            raise ValueError(f"alternatives is {alternatives}; this engine reports at most {most_alternatives}")
        most = min(self.length, self.pages * PAGE)
        if sequence.tokens > most:
            raise ValueError(
                f"a prompt of {counted(len(ids), 'token')} and a text of {sampling.max_tokens} are longer than {most} "
                "tokens; shorten the prompt, or set max_tokens lower"
            )
        sequence.number, sequence.alternatives = self._following, alternatives
        self._following += 1
        self._waiting.append(sequence)
        return sequence.number

    def _check_images(self, sequence: Sequence, images: np.ndarray) -> None:
        sight = self._model.sight
        if sight is None:
            raise ValueError("the model sees no images; leave them out")
        is_image = sequence.is_image = np.equal(sequence.prompt, sight.image_token_index)
        if (there := int(is_image.sum())) != len(images) * sight.tokens:
            raise ValueError(f"the prompt has {there} tokens of images; {len(images)} have {sight.tokens} each")
        sequence.salt += hashlib.sha256(images.tobytes()).digest()

    def cancel(self, number: int) -> None:
        """End a sequence and free its slot and pages; nothing happens if it has ended."""
        self._ready = deque([one for one in column if one.sequence != number] for column in self._ready)
        self._waiting = deque(sequence for sequence in self._waiting if sequence.number != number)
        for slot, sequence in enumerate(self._slots):
            if sequence is not None and sequence.number == number:
                self._release(slot)

    def step(self) -> list[Token]:
        """Compute a chunk of a prompt, and the next token of each sequence whose prompt is computed.

        Returns:
            These tokens, in the order of the slots. A sequence whose token says why it ended is over.
        """
        if not self._ready:
            self._admit()
            with context_of(self._mesh):
                self._compute_prompt()
            self._compute_tokens()
        return self._ready.popleft() if self._ready else []

    def _compute_tokens(self) -> None:
        """Compute the next tokens of each sequence whose prompt is computed."""
        decoding = [sequence if sequence is not None and sequence.is_decoding else None for sequence in self._slots]
        if not any(decoding):
            return
        plan = self._plan(decoding)
        began = self._clock()
        with context_of(self._mesh):
            self._state, chosen, steps = self._programs.decode(self._arrays, self._state, _controls(decoding), plan)
        found, (rounds, passes) = jax.device_get((chosen, steps))
        is_token = found.tokens >= 0
        self.proposed += self._fixed.further * int(passes)
        self.accepted += int(is_token.sum() - passes)
        seconds = (self._clock() - began) / int(rounds)
        # At most twice as many as before: the first call may have compiled the program, or waited for the processor.
        self._steps = max(1, min(programs.MOST_STEPS, 2 * self._steps, int(CALL_SECONDS / max(seconds, 1e-9))))
        for number in range(int(is_token.any(1).sum())):
            self._ready.append(self._taken(decoding, found, number))

    def _plan(self, decoding: Slots) -> programs.Plan:
        bound = any(sequence is not None and sequence.grammar is not None for sequence in decoding)
        prompts = any(sequence is not None and not sequence.is_decoding for sequence in self._slots)
        ends = np.full((len(decoding), programs.MOST_ENDS), -1, np.int32)
        for row, sequence in zip(ends, decoding, strict=True):
            known = sorted(sequence.ends)[: programs.MOST_ENDS] if sequence is not None else []
            row[: len(known)] = known
        array: Any = np.asarray  # the call of the program copies them to the device faster than a conversion of each
        return programs.Plan(
            active=array([sequence is not None for sequence in decoding]),
            left=array(
                [0 if sequence is None else sequence.sampling.max_tokens - sequence.generated for sequence in decoding],
                np.int32,
            ),
            ends=array(ends),
            allowed=self._allowed(decoding),
            is_bound=array(bound),
            wants_alternatives=array(any(sequence is not None and sequence.alternatives for sequence in decoding)),
            steps=array(1 if bound or prompts else self._steps, np.int32),
            until_end=array(bool(self._waiting)),
            shift=self._shift(decoding),
        )

    def _shift(self, sequences: Slots) -> Any:
        """By how much the next position of each sequence is less than the tokens before it: int32 [sequence]."""
        sight = self._model.sight
        if sight is None or not sight.positions:
            return None
        places = [() if one is None or one.is_image is None else one.is_image[: one.computed] for one in sequences]
        return np.array([np.sum(each) // sight.tokens for each in places], np.int32) * (sight.tokens - sight.positions)

    def _taken(self, decoding: Slots, found: programs.Chosen, number: int) -> list[Token]:
        """The tokens of one step. A sequence that ends leaves `decoding` and its slot."""
        taken: list[Token] = []
        for slot, sequence in enumerate(decoding):
            if sequence is None or (token := int(found.tokens[number, slot])) < 0:
                continue
            sequence.generated += 1
            finish: Finish | None = "stop" if token in sequence.ends else None
            if finish is None and sequence.generated == sequence.sampling.max_tokens:
                finish = "length"
            if sequence.grammar is not None and finish is None:
                sequence.grammar.accept(token)
            first = slice(sequence.alternatives)
            tokens, log_probs = (
                found.top_tokens[number, slot, first].tolist(),
                found.top_log_probs[number, slot, first].tolist(),
            )
            others = tuple(zip(tokens, log_probs, strict=True))
            taken.append(
                Token(sequence.number, token, float(found.log_probs[number, slot]), others, finish, sequence.reused)
            )
            if finish is not None:
                decoding[slot] = None
                self._release(slot)
        return taken

    def _allowed(self, sequences: Slots) -> jax.Array:
        """int32 [slot, word]; see `decode`."""
        if all(sequence is None or sequence.grammar is None for sequence in sequences):
            return self._all_allowed
        words = np.full(self._all_allowed.shape, -1, np.int32)
        for row, sequence in zip(words, sequences, strict=True):
            if sequence is not None and sequence.grammar is not None:
                sequence.grammar.allow(row)
        return jnp.asarray(words)

    def _admit(self) -> None:
        for slot, present in enumerate(self._slots):
            if present is not None or not self._waiting:
                continue
            sequence = self._waiting[0]
            self._share(sequence)
            pages = self._pool.take(-(-sequence.tokens // PAGE) - sequence.computed // PAGE)
            if pages is None:
                self._drop(sequence)
                return  # a later sequence must not overtake: a long one would wait forever
            self._waiting.popleft()
            sequence.pages = pages
            self._slots[slot] = sequence

    def _share(self, sequence: Sequence) -> None:
        """Take the next chunks of a prompt that other sequences have computed.

        The last token is always computed, for its logits.
        """
        shares = self._shares and not sequence.logs_prompt
        while shares and sequence.is_whole and sequence.computed + len(sequence.chunk) < len(sequence.prompt):
            found = self._pool.find(
                sequence.shared[-1] if sequence.shared else self._pool.root(sequence.salt), sequence.chunk.tobytes()
            )
            if found is None:
                return
            self._pool.give(sequence.pages[: len(found.pages)])
            sequence.pages = sequence.pages[len(found.pages) :]
            sequence.shared.append(found)
            sequence.reused += len(sequence.chunk)
            sequence.computed += len(sequence.chunk)
            sequence.is_marked = False

    def _drop(self, sequence: Sequence) -> None:
        """Take back everything that a sequence has."""
        for prefix in reversed(sequence.shared):
            self._pool.leave(prefix)
        self._pool.give(sequence.pages)
        sequence.shared, sequence.pages = [], []
        sequence.computed = sequence.reused = 0
        sequence.is_marked = True

    def _release(self, slot: int) -> None:
        sequence, self._slots[slot] = self._slots[slot], None
        if sequence is not None:
            self._drop(sequence)

    def _compute_prompt(self) -> None:
        """Compute a chunk of the prompt of the oldest sequence that needs it."""
        found = [
            (sequence.number, slot, sequence)
            for slot, sequence in enumerate(self._slots)
            if sequence is not None and not sequence.is_decoding
        ]
        if not found:
            return
        _, slot, sequence = min(found)
        self._share(sequence)
        if not sequence.is_marked:
            known = np.pad(sequence.prompt[: sequence.computed], (0, self.length - sequence.computed))
            self._state = programs.mark(self._state, jnp.int32(slot), jnp.asarray(known), jnp.int32(sequence.computed))
            sequence.is_marked = True
        part = sequence.chunk
        size = next((size for size in CHUNKS if size >= len(part)), len(part))  # an image may be longer
        size = min(size, self._model.max_position.size)
        more = max(0, self._fixed.further - 1)
        after = sequence.prompt[sequence.computed + 1 : sequence.computed + 1 + len(part) + more]
        following = after[: len(part)]
        self._state, logs = self._programs.prefill(
            self._arrays,
            self._state,
            jnp.int32(slot),
            jnp.asarray(np.pad(part, (0, size - len(part)))),
            jnp.int32(len(part)),
            jnp.asarray(sequence.computed == 0),
            jnp.int32(sequence.computed),
            jnp.asarray(self._pages_of(sequence)),
            jnp.asarray(np.pad(after, (0, size + more - len(after)))),
            jnp.asarray(sequence.logs_prompt),
            self._seen(sequence, len(part), size),
            self._shift([sequence]),
        )
        if sequence.logs_prompt:
            found = jax.device_get(logs)
            sequence.prompt_logs.append(
                programs.PromptLogs(
                    found.log_probs[: len(following)],
                    found.top_tokens[: len(following), : sequence.alternatives],
                    found.top_log_probs[: len(following), : sequence.alternatives],
                )
            )
        if (
            self._shares
            and sequence.is_whole
            and sum(len(prefix.tokens) for prefix in sequence.shared) == 4 * sequence.computed
        ):
            self._keep(sequence, part)
        sequence.computed += len(part)
        if sequence.is_decoding:
            self._hand_on(sequence, slot)

    def _seen(self, sequence: Sequence, count: int, size: int) -> jax.Array | None:
        """What stands at the next `count` tokens of a prompt where these are of images, for `size` positions."""
        here = slice(sequence.computed, sequence.computed + count)
        if sequence.images is None or sequence.is_image is None or not sequence.is_image[here].any():
            return None
        if sequence.seen is None:
            each = [self._programs.see(self._arrays, jnp.asarray(image)) for image in sequence.images]
            sequence.seen = jnp.concatenate(each)
        numbers = np.maximum(np.cumsum(sequence.is_image)[here] - 1, 0)
        return sequence.seen[np.pad(numbers, (0, size - count))]

    def _hand_on(self, sequence: Sequence, slot: int) -> None:
        """Give what a slot has after its prompt to the sequences with the same prompt, such as the choices of one
        request.
        """
        for other, found in enumerate(self._slots):
            if found is None or found.computed or found.is_decoding or found.salt != sequence.salt:
                continue
            has_logs = sequence.logs_prompt and sequence.alternatives == found.alternatives
            if not np.array_equal(found.prompt, sequence.prompt) or (found.logs_prompt and not has_logs):
                continue
            found.prompt_logs = sequence.prompt_logs
            pages = jnp.asarray(self._pages_of(sequence)), jnp.asarray(self._pages_of(found))
            self._state = programs.copy(self._state, jnp.int32(slot), jnp.int32(other), *pages)
            found.computed = found.reused = len(found.prompt)

    def _pages_of(self, sequence: Sequence) -> np.ndarray:
        """The pages of a sequence: int32 [page]."""
        present = [page for prefix in sequence.shared for page in prefix.pages] + sequence.pages
        pages = np.full(self._pages_of_slot, self.pages, np.int32)
        pages[: len(present)] = present
        return pages

    def _keep(self, sequence: Sequence, part: np.ndarray) -> None:
        """Offer a chunk of a prompt, which is computed, to other sequences."""
        count = len(part) // PAGE
        parent = sequence.shared[-1] if sequence.shared else self._pool.root(sequence.salt)
        kept = self._pool.keep(parent, part.tobytes(), sequence.pages[:count])
        if kept is not None:
            sequence.shared.append(kept)
            sequence.pages = sequence.pages[count:]


def _controls(sequences: Slots) -> Controls:
    """The settings of all slots; those of a slot without a sequence are the plainest."""
    array: Any = np.asarray  # the call of the program copies them to the device faster than a conversion of each
    plain = Sampling(temperature=0.0)
    settings = [plain if sequence is None else sequence.sampling for sequence in sequences]
    values = {
        name: array([getattr(one, name) for one in settings], _TYPES.get(name, np.float32))
        for name in Controls._fields
        if name != "number"
    }
    return Controls(
        **values,
        number=array([0 if sequence is None else sequence.generated for sequence in sequences], np.int32),
    )
