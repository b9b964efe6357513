"""Answers that a training samples from its own model, in fixed shapes on the run's mesh.

The answers of a call are a pure function of the weights, the prompts and the keys. So a run that is killed and resumes
samples them again, token by token:

- The key of a token is a function of the seed, the batch, the number of the prompt, the number of the answer and the
  place of the token. It depends neither on the device nor on the other answers.
- All calls have the same shapes: the rows of a batch, a fixed room for prompts, a fixed room for answers. A row that
  has ended is computed on, without an effect, until all rows of its device have ended.

The rows are divided over the devices that divide a batch. Each device computes its rows alone, with the whole
parameters, which it gathers at the beginning of a call. So no arithmetic depends on how the mesh splits parameters;
another number of rows on a device can round in another way.

A model may call the calculator by the marks of Halcyon's chat template (`halcyon.inference.calculator`). A row waits at
the end of a call; the host writes the result, and the next call of the program puts its tokens into the answer in the
place of sampled ones.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.inference.calculator import Calculator
from halcyon.inference.programs import Fixed, called, features_of, known_of, logits_of
from halcyon.inference.sampling import most_likely_with
from halcyon.models import CausalLM
from halcyon.models.axes import BATCH, POSITION
from halcyon.models.cache import Cache, Group, KeepsCache
from halcyon.parallel.axes import COMPUTE_AXES, mesh_axes

_CHUNK = 256
"""Tokens of the prompts that are computed together."""
_MOST_CALLS = 16
"""Calls of the calculator in one answer."""
_IMPL = "threefry2x32"
"""The generator of the keys; with it the numbers are the same on every platform."""


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
    """Whether the model chose a token; the calculator wrote the others: bool [row, place]."""
    ended: np.ndarray
    """Whether the model ended the answer; else it was cut: bool [row]."""
    log_probs: np.ndarray
    """Log-probability of each token that the model chose, at the temperature of sampling, as the decoding program
    computed it; 0 for other tokens: float32 [row, place]."""


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
        calculator: Computes the results of calls. None: the model cannot call it.
        compiler_options: XLA's options.
    """

    mesh: Mesh
    shape: RolloutShape
    seed: int
    calculator: Calculator | None = None
    compiler_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self._rows = tuple(name for name in mesh_axes(BATCH, COMPUTE_AXES) if name in self.mesh.shape)
        self._jit: Callable[..., Any] = functools.partial(jax.jit, compiler_options=self.compiler_options)
        self._fetched = self._jit(lambda *x: x, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
        self._programs: tuple[Any, Any] | None = None

    def __call__(self, model: CausalLM, prompted: Prompted, purpose: int, batch: int) -> Answered:
        """The answers to some prompts. A collective: all processes call it with the same rows.

        Args:
            model: The model.
            prompted: The prompts.
            purpose: A number that separates the keys of different uses, such as training and evaluation.
            batch: The number of the batch, for the keys.

        Raises:
            TypeError: The model keeps no cache.
        """
        begin, decode = self._compiled(model)
        rows, most = self.shape.rows, self.shape.answer
        forced = np.full((rows, most), -1, np.int32)
        tokens, counts, log_probs = np.zeros((rows, most), np.int32), np.zeros(rows, np.int32), np.zeros(0, np.float32)
        waiting = np.full(rows, True)
        numbers = np.array([self.seed, purpose, batch], np.uint32)
        state: Any = begin(model, *(self._whole(x) for x in (*prompted, numbers)))
        for _ in range(_MOST_CALLS + 1):
            state = decode(model, state, self._whole(forced), self._whole(waiting))
            fetched = self._fetched(state.tokens, state.counts, state.log_probs)
            tokens, counts, log_probs = (np.asarray(x) for x in jax.device_get(fetched))
            waiting = self._answer_calls(tokens, counts, forced)
            if not waiting.any():
                break
        places = np.arange(most)
        last = tokens[np.arange(rows), counts - 1]
        own = (places < counts[:, None]) & (forced < 0)
        ended = np.isin(last, self.shape.ends) & own[np.arange(rows), counts - 1]
        tokens = np.where(places < counts[:, None], tokens, 0)
        return Answered(tokens, counts, own, ended, np.where(own, log_probs, np.float32(0)))

    def _whole(self, x: np.ndarray) -> jax.Array:
        """An array of which every device has the whole."""
        return jax.make_array_from_callback(x.shape, NamedSharding(self.mesh, PartitionSpec()), lambda index: x[index])

    def _answer_calls(self, tokens: np.ndarray, counts: np.ndarray, forced: np.ndarray) -> np.ndarray:
        """Write the results of the calls at the ends of the rows into `forced`.

        Returns the rows that go on: bool [row].
        """
        going = np.full(len(counts), False)
        if self.calculator is None:
            return going
        for row, count in enumerate(counts.tolist()):
            if (
                tokens[row, count - 1] != self.calculator.end
                or forced[row, count - 1] >= 0
                or count >= self.shape.answer
            ):
                continue
            result = self.calculator.result(tokens[row, :count])
            if count + len(result) < self.shape.answer:
                forced[row, count : count + len(result)] = result
                going[row] = True
        return going

    def _compiled(self, model: Any) -> tuple[Any, Any]:
        if self._programs is None:
            if not isinstance(model, KeepsCache):
                raise TypeError(
                    f"{type(model).__name__} keeps no cache, so it cannot sample answers; give it a method new_cache"
                )
            shape, rows, whole = self.shape, PartitionSpec(self._rows), PartitionSpec()
            pause = None if self.calculator is None else self.calculator.end
            one: Any = jax.ShapeDtypeStruct((1,), jnp.uint32)
            example: Any = jax.ShapeDtypeStruct((1, shape.prompt), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
            numbers: Any = jax.ShapeDtypeStruct((3,), jnp.uint32)
            state = _state_specs(
                jax.eval_shape(functools.partial(_begun, shape=shape), model, *example, one, one, numbers), self._rows
            )
            place = functools.partial(jax.shard_map, mesh=self.mesh, check_vma=False)
            begin = place(
                functools.partial(_begun, shape=shape), in_specs=(whole, rows, rows, rows, rows, whole), out_specs=state
            )
            decode = place(
                functools.partial(_decoded, shape=shape, pause=pause),
                in_specs=(whole, state, rows, rows),
                out_specs=state,
            )
            self._programs = self._jit(begin), self._jit(decode, donate_argnums=1)
        return self._programs


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
        forced: Tokens that are taken in the place of sampled ones; negative: none. int32 [row, place].
        waiting: Rows that go on: bool [row].
        shape: The shapes.
        pause: The sampled token after which a row waits. None: no row waits.
    """
    numbers, ends = jnp.arange(len(forced)), jnp.asarray(shape.ends, jnp.int32)

    def noise(key: jax.Array, place: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(key, impl=_IMPL), place)
        return jax.random.gumbel(key, state.logits.shape[1:], state.logits.dtype)

    def one(state: _State) -> _State:
        logits = state.logits if shape.temperature == 1 else state.logits / shape.temperature
        chosen = most_likely_with(jax.vmap(noise)(state.keys, state.counts), logits)
        there = forced.at[numbers, state.counts].get(mode="fill", fill_value=-1)
        own = there < 0
        token = jnp.where(own, chosen, there)
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
