"""Answers that a training samples from its own model, in fixed shapes on the run's mesh.

The answers of a call are a pure function of the weights, the prompts and the keys. So a run that is killed and resumes
samples them again, token by token:

- The key of a token is a function of the seed, the batch, the number of the prompt, the number of the answer and the
  place of the token. It depends neither on the device nor on the other answers.
- All calls have the same shapes: the rows of a batch, a fixed room for prompts, a fixed room for answers. A row that
  has ended is computed on, without an effect, until all rows of its device have ended.

The rows are divided over the devices that divide a batch. Each device computes its rows alone, with the whole
parameters, which it gathers at the beginning of a call. So no arithmetic depends on how the mesh splits parameters;
another number of rows on a device can round in another way. With `Rollouts.is_sharded` no device has all parameters:
all compute together, divided as in training.

A row that has stopped may go on (`Replies`): the host writes tokens, such as the result of a tool, and the next call of
the program puts them into the answer in the place of sampled ones.

The decoding program rounds in another way than the trainer's forward pass. With a `Trainer` the answers are exactly
those of the trainer: its forward pass over all rows draws each token again, with the same keys. From the first token
that it draws otherwise, a row is sampled again. So the decoding program only guesses the tokens, almost always rightly,
as a draft model does in speculative decoding (Leviathan et al. 2023).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.inference.programs import Fixed, called, features_of, known_of, logits_of
from halcyon.inference.sampling import most_likely_with
from halcyon.models import CausalLM
from halcyon.models.axes import BATCH, POSITION
from halcyon.models.cache import Cache, Group, KeepsCache
from halcyon.parallel.axes import COMPUTE_AXES, mesh_axes
from halcyon.parallel.device_mesh import context_of

_CHUNK = 256
"""Tokens of the prompts that are computed together."""
_IMPL = "threefry2x32"
"""The generator of the keys; with it the numbers are the same on every platform."""
_NONE, _DRAWN = -1, -2
"""Marks of forced tokens; see `_decoded`."""


class Prompted(NamedTuple):
    """The rows of a call."""

    tokens: np.ndarray
    """The prompts: int32 [row, position]; those from `counts` on are padding."""
    counts: np.ndarray
    """Tokens of each prompt, at least 1: int32 [row]."""
    prompts: np.ndarray
    """The number of each row's prompt, for its key: uint32 [row]."""
    answers: np.ndarray
    """The number of each row's answer among those to its prompt: uint32 [row]."""


class Answered(NamedTuple):
    """The answers of a call, on the host."""

    tokens: np.ndarray
    """int32 [row, place]; 0 from `counts` on."""
    counts: np.ndarray
    """Tokens of each answer, the one that ended it included: int32 [row]."""
    sampled: np.ndarray
    """Whether the model chose a token; `Replies` wrote the others: bool [row, place]."""
    ended: np.ndarray
    """Whether the model ended the answer; else it was cut: bool [row]."""
    log_probs: np.ndarray
    """Log-probability of each token that the model chose, at the temperature of sampling, as the decoding program
    computed it, or the `Trainer`; 0 for other tokens: float32 [row, place]."""


class Replies(Protocol):
    """What follows in rows that have stopped, such as the results of a tool."""

    @property
    def rounds(self) -> int:
        """Times that an answer may stop, the last one included."""
        ...

    @property
    def pauses(self) -> int | None:
        """A token after which a row stops, beside those that end an answer."""
        ...

    def __call__(self, rows: Sequence[int], tokens: np.ndarray, counts: np.ndarray) -> dict[int, list[int]]:
        """The tokens that follow, maybe none, in each row that goes on. All processes get the same.

        Args:
            rows: Those that have just stopped after a token of the model, in order.
            tokens: The answers so far: int32 [row, place].
            counts: Their tokens: int32 [row].
        """
        ...


class Trainer(Protocol):
    """The forward pass of the trainer over answers."""

    def __call__(self, model: CausalLM, prompted: Prompted, answered: Answered, numbers: np.ndarray) -> "Drawn":
        """What it draws in the place of each token of the answers; `numbers` as in `token_keys`. A collective."""
        ...


class Drawn(NamedTuple):
    """Of the forward pass over answers; see `Trainer`."""

    tokens: np.ndarray
    """What the key of each token draws: int32 [row, place]."""
    log_probs: np.ndarray
    """The log-probability of each token of the answers: float32 [row, place]."""


@dataclass(frozen=True)
class RolloutShape:
    """The shapes and constants of the programs.

    Attributes:
        rows: Rows of a call, over all devices; the devices that divide a batch divide it.
        prompt: Most tokens of a prompt.
        answer: Most tokens of an answer.
        tokens: Tokens that may be chosen are those with an id below this.
        temperature: The logits are divided by it.
        ends: Tokens that end an answer.
        dtype: Type of activations, matrix products and the cache.
        answers: Answers to each prompt, whose rows follow one another. A prompt is computed once for its rows on one
            device.
    """

    rows: int
    prompt: int
    answer: int
    tokens: int
    temperature: float
    ends: tuple[int, ...]
    dtype: str
    answers: int = 1

    @property
    def fixed(self) -> Fixed:
        """The same for the programs of the engine."""
        return Fixed(self.dtype, self.tokens, 0)


class _State(NamedTuple):
    """The rows of one device while they are decoded."""

    cache: Cache
    keys: jax.Array
    """uint32 [row, 2]."""
    logits: jax.Array
    """float32 [row, token]: of the next token."""
    tokens: jax.Array
    """int32 [row, place]."""
    counts: jax.Array
    """int32 [row]."""
    log_probs: jax.Array
    """float32 [row, place]."""
    active: jax.Array
    """bool [row]: whether the row gets a token."""


@dataclass(eq=False)
class Rollouts:
    """Samples answers on a mesh.

    Args:
        mesh: The mesh of the run.
        shape: The shapes of all calls.
        seed: Seed of the keys.
        replies: What follows in rows that stop. None: nothing.
        is_sharded: Whether the parameters stay divided among the devices.
        compiler_options: XLA's options.
    """

    mesh: Mesh
    shape: RolloutShape
    seed: int
    replies: Replies | None = None
    is_sharded: bool = False
    compiler_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._rows = tuple(name for name in mesh_axes(BATCH, COMPUTE_AXES) if name in self.mesh.shape)
        self._jit: Callable[..., Any] = functools.partial(jax.jit, compiler_options=self.compiler_options)
        self._fetched = self._jit(lambda *x: x, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
        self._programs: tuple[Any, Any] | None = None

    def __call__(
        self,
        model: CausalLM,
        prompted: Prompted,
        purpose: int,
        batch: int,
        trainer: Trainer | None = None,
        replies: Replies | None = None,
    ) -> Answered:
        """The answers to some prompts. A collective: all processes call it with the same rows.

        Args:
            model: The model.
            prompted: The prompts.
            purpose: A number that separates the keys of different uses, such as training and evaluation.
            batch: The number of the batch, for the keys.
            trainer: Draws each token again. None: the answers are those of the decoding program.
            replies: In the place of those of all calls; without further pauses.

        Raises:
            TypeError: The model keeps no cache.
            ValueError: What the trainer draws for a token depends on later tokens.
        """
        begin, decode = self._compiled(model)
        replies = replies or self.replies
        rows, most = self.shape.rows, self.shape.answer
        every, places = np.arange(rows), np.arange(most)
        numbers = np.array([self.seed, purpose, batch], np.uint32)
        forced, written = np.full((rows, most), _NONE, np.int32), np.full((rows, most), False)
        waiting, drawn = np.full(rows, True), np.full(rows, -1)
        state: Any = None
        rounds = 0
        while True:
            again = state is None
            with context_of(self.mesh if self.is_sharded else None):
                if again:
                    state = begin(model, *(self._whole(x) for x in (*prompted, numbers)))
                state = decode(model, state, self._whole(forced), self._whole(waiting | again))
            tokens, counts, log_probs = self._answers(state)
            there = places < counts[:, None]
            own = there & ~written
            ended = np.isin(tokens[every, counts - 1], self.shape.ends) & own[every, counts - 1]
            tokens, log_probs = np.where(there, tokens, 0), np.where(own, log_probs, np.float32(0))
            answered = Answered(tokens, counts, own, ended, log_probs)
            if trainer is not None:
                found = trainer(model, prompted, answered, numbers)
                other = own & (found.tokens != tokens)
                if other.any():
                    drawn = _first_other(other, counts, drawn)
                    forced = _forced_up_to(drawn, np.where(other, found.tokens, tokens))
                    written &= places <= drawn[:, None]
                    state = None
                    continue
                drawn = np.full(rows, -1)
                answered = answered._replace(log_probs=np.where(own, found.log_probs, np.float32(0)))
            rounds += 1
            last = own[every, counts - 1] & (counts < most) & waiting
            if replies is None or rounds == replies.rounds or not last.any():
                return answered
            forced, waiting = np.full_like(forced, _NONE), np.full(rows, False)
            for row, reply in replies(np.flatnonzero(last).tolist(), tokens, counts).items():
                after = counts[row] + len(reply)
                if after < most:
                    forced[row, counts[row] : after], written[row, counts[row] : after] = reply, True
                    waiting[row] = True
            if not waiting.any():
                return answered

    def _answers(self, state: _State) -> tuple[np.ndarray, ...]:
        """Tokens, counts and log-probabilities of a state, on every process."""
        fetched = self._fetched(state.tokens, state.counts, state.log_probs)
        return tuple(np.asarray(x) for x in jax.device_get(fetched))

    def _whole(self, x: np.ndarray) -> jax.Array:
        """An array of which every device has the whole."""
        return jax.make_array_from_callback(x.shape, NamedSharding(self.mesh, PartitionSpec()), lambda index: x[index])

    def _compiled(self, model: Any) -> tuple[Any, Any]:
        if self._programs is None:
            if not isinstance(model, KeepsCache):
                raise TypeError(
                    f"{type(model).__name__} keeps no cache, so it cannot sample answers; give it a method new_cache"
                )
            shape, rows, whole = self.shape, PartitionSpec(self._rows), PartitionSpec()
            pause = None if self.replies is None else self.replies.pauses
            begin: Callable[..., _State] = functools.partial(_begun, shape=shape)
            decode: Callable[..., _State] = functools.partial(_decoded, shape=shape, pause=pause)
            if self.is_sharded:
                begin, decode = (functools.partial(_with_rows_divided, one, self._rows) for one in (begin, decode))
            else:
                one: Any = jax.ShapeDtypeStruct((1,), jnp.uint32)
                example: Any = jax.ShapeDtypeStruct((1, shape.prompt), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
                numbers: Any = jax.ShapeDtypeStruct((3,), jnp.uint32)
                state = _state_specs(jax.eval_shape(begin, model, *example, one, one, numbers), self._rows)
                place = functools.partial(jax.shard_map, mesh=self.mesh, check_vma=False)
                begin = place(begin, in_specs=(whole, rows, rows, rows, rows, whole), out_specs=state)
                decode = place(decode, in_specs=(whole, state, rows, rows), out_specs=state)
            self._programs = self._jit(begin), self._jit(decode, donate_argnums=1)
        return self._programs


def _first_other(other: np.ndarray, counts: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The first place of each row where the trainer draws another token; the last place where there is none."""
    first = np.where(other.any(axis=1), other.argmax(axis=1), counts - 1)
    if (other.any(axis=1) & (first <= before)).any():
        raise ValueError("what the model draws for a token depends on the tokens after it")
    return first


def _forced_up_to(last: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """See `_decoded`: each row has the given tokens up to a place, and stops there if the token there ends a row."""
    places = np.arange(tokens.shape[1])
    forced = np.where(places < last[:, None], tokens, _NONE)
    return np.where(places == last[:, None], _DRAWN - tokens, forced).astype(np.int32)


def token_keys(prompts: jax.Array, answers: jax.Array, places: jax.Array, numbers: jax.Array) -> jax.Array:
    """The key of each token: uint32 [..., 2].

    Args:
        prompts: See `Prompted`, as for the answers: uint32 [...].
        answers: uint32 [...].
        places: The places of the tokens: uint32 [...].
        numbers: Seed, purpose and batch: uint32 [3].
    """
    keys = _keys(prompts.ravel(), answers.ravel(), numbers)
    return jax.vmap(_key_of_token)(keys, places.ravel()).reshape(*places.shape, 2)


def _key_of_token(key: jax.Array, place: jax.Array) -> jax.Array:
    return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key, impl=_IMPL), place))


def token_noise(key: jax.Array, tokens: int) -> jax.Array:
    """The Gumbel noise of a token's logits: float32 [token].

    Args:
        key: Of the token: uint32 [2].
        tokens: Tokens that may be chosen.
    """
    return jax.random.gumbel(jax.random.wrap_key_data(key, impl=_IMPL), (tokens,), jnp.float32)


def _keys(prompts: jax.Array, answers: jax.Array, numbers: jax.Array) -> jax.Array:
    """The key of each row: uint32 [row, 2].

    Args:
        prompts: See `Prompted`, as for the answers.
        answers: uint32 [row].
        numbers: Seed, purpose and batch: uint32 [3].
    """
    seed, purpose, batch = numbers
    key = jax.random.fold_in(
        jax.random.fold_in(jax.random.fold_in(jax.random.key(0, impl=_IMPL), seed), purpose), batch
    )

    def of_row(prompt: jax.Array, answer: jax.Array) -> jax.Array:
        return jax.random.key_data(jax.random.fold_in(jax.random.fold_in(key, prompt), answer))

    return jax.vmap(of_row)(prompts, answers)


def _begun(
    model: Any,
    tokens: jax.Array,
    counts: jax.Array,
    prompts: jax.Array,
    answers: jax.Array,
    numbers: jax.Array,
    *,
    shape: RolloutShape,
) -> _State:
    """The state after the prompts of one device's rows; see `Prompted` and `_keys`."""
    keys, answered = _keys(prompts, answers, numbers), len(tokens)
    same = shape.answers if answered % shape.answers == 0 else 1
    tokens, counts = tokens[::same], counts[::same]
    rows, width = tokens.shape
    size = min(width, _CHUNK)
    chunks = -(-width // size)
    padded = jnp.pad(tokens, ((0, 0), (0, chunks * size - width))).reshape(rows, chunks, size).swapaxes(0, 1)
    cache = model.new_cache(rows, shape.prompt + shape.answer, shape.dtype)

    def one(carry: tuple[Cache, jax.Array], chunk: tuple[jax.Array, jax.Array]) -> tuple[tuple[Cache, jax.Array], None]:
        cache, last = carry
        part, first = chunk
        here = jnp.clip(counts - first, 0, size)
        outputs = called(model, part, cache.expecting(here), shape.fixed)
        place = counts - 1 - first
        ends = jnp.take_along_axis(features_of(model, outputs), jnp.clip(place, 0, size - 1)[:, None, None], 1)[:, 0]
        return (outputs.cache, jnp.where(((place >= 0) & (place < size))[:, None], ends, last)), None

    start = cache, jnp.zeros((rows, model.embed.size), shape.dtype)
    (cache, last), _ = jax.lax.scan(one, start, (padded, jnp.arange(chunks) * size))
    logits = known_of(logits_of(model, hax.named(last[:, None], (BATCH, POSITION, model.embed.name))), shape.fixed)
    if same > 1:
        owners = jnp.arange(answered) // same
        cache, logits = cache.copied(owners), logits[owners]
    none = jnp.zeros(answered, jnp.int32)
    tokens = jnp.zeros((answered, shape.answer), jnp.int32)
    return _State(cache, keys, logits, tokens, none, tokens.astype(jnp.float32), jnp.zeros(answered, bool))


def _decoded(
    model: Any, state: _State, forced: jax.Array, waiting: jax.Array, *, shape: RolloutShape, pause: int | None
) -> _State:
    """The state when no row of one device gets a further token.

    Args:
        model: The model.
        state: The state before.
        forced: Tokens that are taken in the place of sampled ones, and do not end a row: int32 [row, place]; `_NONE`:
            a sampled one; ``_DRAWN - token``: this token, as if it were sampled.
        waiting: Rows that go on: bool [row].
        shape: The shapes.
        pause: The sampled token after which a row waits. None: no row waits.
    """
    numbers, ends = jnp.arange(len(forced)), jnp.asarray(shape.ends, jnp.int32)

    def noise(key: jax.Array, place: jax.Array) -> jax.Array:
        return token_noise(_key_of_token(key, place), state.logits.shape[1])

    def one(state: _State) -> _State:
        logits = state.logits if shape.temperature == 1 else state.logits / shape.temperature
        chosen = most_likely_with(jax.vmap(noise)(state.keys, state.counts), logits)
        there = forced.at[numbers, state.counts].get(mode="fill", fill_value=_NONE)
        own = there < 0
        token = jnp.where(there == _NONE, chosen, jnp.where(own, _DRAWN - there, there))
        place = numbers, jnp.where(state.active, state.counts, shape.answer)
        tokens = state.tokens.at[place].set(token, mode="drop")
        of_token = jnp.take_along_axis(logits, token[:, None], 1)[:, 0] - jax.nn.logsumexp(logits, axis=1)
        log_probs = state.log_probs.at[place].set(of_token, mode="drop")
        counts = state.counts + state.active
        stops = own & (jnp.any(token[:, None] == ends, -1) | (False if pause is None else token == pause))
        expecting = state.cache.expecting(state.active.astype(jnp.int32))
        outputs = called(model, token[:, None], expecting, shape.fixed)
        logits = known_of(logits_of(model, outputs.features), shape.fixed)
        following = jnp.where(state.active[:, None], logits, state.logits)
        active = state.active & ~stops & (counts < shape.answer)
        return _State(outputs.cache, state.keys, following, tokens, counts, log_probs, active)

    return jax.lax.while_loop(lambda state: jnp.any(state.active), one, state._replace(active=waiting))


def _with_rows_divided(function: Callable[..., _State], axes: Sequence[str], *arguments: Any) -> _State:
    """A state whose rows are divided over mesh axes; XLA divides its other dimensions."""
    state = function(*arguments)

    def constrained(x: jax.Array, spec: PartitionSpec) -> jax.Array:
        others = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - len(spec))
        return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec, *others))

    return jax.tree.map(constrained, state, _state_specs(state, axes))


def _state_specs(state: _State, rows: Sequence[str]) -> _State:
    """The partition specs of a state whose rows are divided over mesh axes.

    Pages belong to rows, so they are divided in the same way.
    """
    first: Any = PartitionSpec(tuple(rows))
    second: Any = PartitionSpec(None, tuple(rows))

    def group(one: Group) -> Group:
        return dataclasses.replace(one, arrays=tuple(second for _ in one.arrays))

    cache = dataclasses.replace(
        state.cache, groups={name: group(one) for name, one in state.cache.groups.items()}, lengths=first, table=first
    )
    return _State(cache, first, first, first, first, first, first)
