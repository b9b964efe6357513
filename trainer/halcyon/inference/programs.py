"""The compiled programs of an engine: tokens of a prompt into one slot, and some tokens for all slots.

The logits after the last token of each slot are kept. So a step first chooses a token from them and then computes the
model, and the choice of the first token needs no program of its own.

One call computes several steps, because a call of a small model costs as much as a step. The number of steps is an
argument, so a text has the same bits however its steps are divided among calls. A slot stops by itself at its last
token.

A call gets the arrays of the model as a flat tuple: the tree of a model has a Python object for each part, and JAX
would walk it in each call.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from halcyon.inference.sampling import Controls, next_tokens
from halcyon.models import CausalLM, Inputs
from halcyon.models.axes import BATCH, POSITION
from halcyon.models.cache import Cache, Group
from halcyon.models.softmax import block_count, most_logit_bytes
from halcyon.parallel.device_mesh import mesh_of

MOST_STEPS = 16
"""Steps of the longest call."""
MOST_ENDS = 8
"""Tokens of each slot that end a text on the device.

With further ones the text goes on until the end of the call, and is cut.
"""


class State(NamedTuple):
    """What an engine keeps on the device."""

    cache: Cache
    logits: jax.Array
    """float32 [slot, token]: of the next token."""
    prompted: jax.Array
    """bool [slot, token]: tokens of the prompt."""
    written: jax.Array
    """int32 [slot, token]: how often each token is in the text."""


class Chosen(NamedTuple):
    """The tokens of some steps."""

    tokens: jax.Array
    """int32 [step, slot]."""
    log_probs: jax.Array
    """float32 [step, slot]: the logarithm of the model's probability, before temperature, filters and penalties."""
    top_tokens: jax.Array
    """int32 [step, slot, alternative]: the most likely tokens."""
    top_log_probs: jax.Array
    """float32 [step, slot, alternative]."""


class PromptLogs(NamedTuple):
    """What the model expected at some tokens of a prompt."""

    log_probs: Any
    """float32 [token]: the logarithm of the probability of each."""
    top_tokens: Any
    """int32 [token, alternative]: the most likely tokens in its place."""
    top_log_probs: Any
    """float32 [token, alternative]."""


class Plan(NamedTuple):
    """What a call computes, besides the settings of the slots."""

    active: jax.Array
    """bool [slot]: slots whose prompt is computed."""
    left: jax.Array
    """int32 [slot]: tokens until the greatest length of the text."""
    ends: jax.Array
    """int32 [slot, end]: tokens that end the text; -1: none."""
    allowed: jax.Array
    """int32 [slot, word]: a bit for each token that may be chosen, the lowest bit of a word first."""
    is_bound: jax.Array
    """bool: whether a bit of `allowed` is 0."""
    wants_alternatives: jax.Array
    """bool: whether a slot reports alternatives."""
    steps: jax.Array
    """int32: most steps of the call, at most `MOST_STEPS`."""
    until_end: jax.Array
    """bool: whether the call ends with the first text that ends, because a request waits for its slot."""


class Fixed(NamedTuple):
    """What decides the programs besides the shapes."""

    dtype: str
    """Type of activations and matrix products."""
    tokens: int
    """Tokens that may be chosen are those with an id below this."""
    alternatives: int
    """Most likely tokens that each step reports."""


class Programs(NamedTuple):
    """The programs for models of one structure.

    Each takes the arrays of the model and the state, whose memory it uses again.
    """

    prefill: Callable[..., tuple[State, PromptLogs]]
    """See `_prefill`."""
    decode: Callable[..., tuple[State, Chosen, jax.Array]]
    """See `_decode`."""


def empty(model: Any, fixed: Fixed, slots: int, length: int, pages: int) -> State:
    """The state without a request; see `Cache.of`."""
    vocabulary = model.vocab.size

    def made() -> State:
        cache = model.new_cache(slots, length, fixed.dtype, pages=pages)
        return State(cache, *(jnp.zeros((slots, vocabulary), kind) for kind in (jnp.float32, bool, jnp.int32)))

    return made() if mesh_of(model) is None else jax.jit(made)()  # a program, so that each device makes its part only


@functools.lru_cache(maxsize=256)
def programs_of(structure: Any, fixed: Fixed, mesh: Mesh | None = None) -> Programs:
    """The programs of all engines with models of one structure.

    Args:
        structure: The tree of the model, as ``jax.tree.structure`` returns it.
        fixed: What decides the programs.
        mesh: The mesh of the context in which the programs are called. None: one device.
    """
    del mesh  # programs for another mesh are other programs

    def prefill(arrays: Any, *arguments: Any) -> tuple[State, PromptLogs]:
        return _prefill(jax.tree.unflatten(structure, arrays), *arguments, fixed=fixed)

    def decode(arrays: Any, *arguments: Any) -> tuple[State, Chosen, jax.Array]:
        return _decode(jax.tree.unflatten(structure, arrays), *arguments, fixed=fixed)

    return Programs(jax.jit(prefill, donate_argnums=1), jax.jit(decode, donate_argnums=1))


def _prefill(
    model: CausalLM,
    state: State,
    slot: jax.Array,
    tokens: jax.Array,
    count: jax.Array,
    begins: jax.Array,
    start: jax.Array,
    pages: jax.Array,
    targets: jax.Array,
    wants_logs: jax.Array,
    *,
    fixed: Fixed,
) -> tuple[State, PromptLogs]:
    """Compute the next tokens of a prompt.

    Args:
        model: The model.
        state: The state.
        slot: int32: the slot of the request.
        tokens: int32 [position]; those from `count` on are padding.
        count: int32: tokens that count.
        begins: bool: whether these are the first tokens of the prompt.
        start: int32: tokens of the prompt before these, which are in the pages already.
        pages: int32 [page]: the pages of the slot.
        targets: int32 [position]: the token after each position.
        wants_logs: bool: whether the logs of the targets are computed; else they are 0.
        fixed: What decides the program.

    Returns:
        The state, and the logs of the targets; without a target if the engine reports no alternatives.
    """
    cache = dataclasses.replace(state.cache, table=state.cache.table.at[slot].set(pages))
    row = dataclasses.replace(cache.row(slot, begins), lengths=start[None])
    outputs = called(model, tokens[None], row.expecting(count[None]), fixed)
    features = features_of(model, outputs)
    last = jax.lax.dynamic_slice_in_dim(features, count - 1, 1, 1)
    logits = logits_of(model, hax.named(last, (BATCH, POSITION, model.embed.name)))[0]
    counted = jnp.where(jnp.arange(tokens.shape[0]) < count, tokens, state.prompted.shape[1])
    prompted = (state.prompted[slot] & ~begins).at[counted].set(True, mode="drop")
    following = State(
        cache.with_row(slot, outputs.cache),
        state.logits.at[slot].set(logits),
        state.prompted.at[slot].set(prompted),
        state.written.at[slot].set(0),
    )
    shape = len(targets) if fixed.alternatives else 0, fixed.alternatives
    none = PromptLogs(jnp.zeros(shape[:1]), jnp.zeros(shape, jnp.int32), jnp.zeros(shape))
    if not fixed.alternatives:
        return following, none
    logged = functools.partial(_logged, model, fixed=fixed)
    return following, jax.lax.cond(wants_logs, logged, lambda *_: none, features[0], targets)


def _logged(model: CausalLM, features: jax.Array, targets: jax.Array, *, fixed: Fixed) -> PromptLogs:
    """The logs of the token after each position, in blocks, because logits of all positions may be large.

    Args:
        model: The model.
        features: [position, embed].
        targets: int32 [position].
        fixed: What decides the program.
    """

    def of_block(block: tuple[jax.Array, jax.Array]) -> PromptLogs:
        named = hax.named(block[0][:, None], (BATCH, POSITION, model.embed.name))
        logits = logits_of(model, named)
        totals = jax.nn.logsumexp(logits, -1, keepdims=True)
        top, tokens = jax.lax.top_k(known_of(logits, fixed), fixed.alternatives)
        of_targets = jnp.take_along_axis(logits, block[1][:, None], -1) - totals
        return PromptLogs(of_targets[:, 0], tokens.astype(jnp.int32), top - totals)

    count = len(targets)
    blocks = block_count(count, count * model.vocab.size * 4, most_logit_bytes())
    logs = jax.lax.map(of_block, (features.reshape(blocks, -1, features.shape[-1]), targets.reshape(blocks, -1)))
    return PromptLogs(*(x.reshape(count, *x.shape[2:]) for x in logs))


@functools.partial(jax.jit, donate_argnames="state")
def mark(state: State, slot: jax.Array, tokens: jax.Array, count: jax.Array) -> State:
    """Set the tokens of a slot's prompt to those of a beginning whose pages were found.

    Args:
        state: The state; its memory is used again.
        slot: int32: the slot of the request.
        tokens: int32 [position]; those from `count` on are padding.
        count: int32: tokens that count.
    """
    counted = jnp.where(jnp.arange(tokens.shape[0]) < count, tokens, state.prompted.shape[1])
    prompted = jnp.zeros_like(state.prompted[0]).at[counted].set(True, mode="drop")
    return state._replace(prompted=state.prompted.at[slot].set(prompted))


@functools.partial(jax.jit, donate_argnames="state")
def copy(state: State, slot: jax.Array, to: jax.Array, pages: jax.Array, new: jax.Array) -> State:
    """Give a slot everything that another one has after its prompt.

    Args:
        state: The state; its memory is used again.
        slot: int32: the slot that has it.
        to: int32: the slot that gets it.
        pages: int32 [page]: the pages of the first slot.
        new: int32 [page]: those of the other one.
    """
    cache = state.cache

    def of_group(group: Group) -> Group:
        if group.paged:
            arrays = tuple(x.at[:, new].set(x.at[:, pages].get(mode="clip"), mode="drop") for x in group.arrays)
        else:
            arrays = tuple(x.at[:, to].set(x[:, slot]) for x in group.arrays)
        return dataclasses.replace(group, arrays=arrays)

    copied = dataclasses.replace(
        cache,
        groups={name: of_group(group) for name, group in cache.groups.items()},
        lengths=cache.lengths.at[to].set(cache.lengths[slot]),
        table=cache.table.at[to].set(new),
    )
    return State(copied, *(x.at[to].set(x[slot]) for x in (state.logits, state.prompted, state.written)))


def _decode(
    model: CausalLM, state: State, controls: Controls, plan: Plan, *, fixed: Fixed
) -> tuple[State, Chosen, jax.Array]:
    """Choose a token in each active slot, and compute it; again for each step.

    The masks of grammars are an argument of every call, so a request has the same program whether or not another one
    has a grammar.

    Args:
        model: The model.
        state: The state.
        controls: The settings of each slot, at its first step.
        plan: What to compute.
        fixed: What decides the program.

    Returns:
        The state, the tokens, and the number of steps that were computed.
    """
    slots, rows = len(plan.active), (MOST_STEPS, len(plan.active))
    none = Chosen(
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros((*rows, fixed.alternatives), jnp.int32),
        jnp.zeros((*rows, fixed.alternatives), jnp.float32),
    )

    def goes_on(carry: tuple[jax.Array, jax.Array, State, Chosen]) -> jax.Array:
        number, active, _, _ = carry
        has_ended = jnp.any(plan.active & ~active)
        return (number < plan.steps) & jnp.any(active) & ~(plan.until_end & has_ended)

    def step(carry: tuple[jax.Array, jax.Array, State, Chosen]) -> tuple[jax.Array, jax.Array, State, Chosen]:
        number, active, state, taken = carry
        chosen = _chosen(state, controls._replace(number=controls.number + number), active, plan, fixed)
        tokens = chosen.tokens
        outputs = called(model, tokens[:, None], state.cache.expecting(active.astype(jnp.int32)), fixed)
        logits = jnp.where(active[:, None], logits_of(model, outputs.features), state.logits)
        written = state.written.at[jnp.arange(slots), tokens].add(active.astype(jnp.int32))
        taken = Chosen(*(whole.at[number].set(one) for whole, one in zip(taken, chosen, strict=True)))
        ends = jnp.any(tokens[:, None] == plan.ends, -1) | (number + 1 >= plan.left)
        return number + 1, active & ~ends, State(outputs.cache, logits, state.prompted, written), taken

    number, _, state, taken = jax.lax.while_loop(goes_on, step, (jnp.int32(0), plan.active, state, none))
    return state, taken, number


def _chosen(state: State, controls: Controls, active: jax.Array, plan: Plan, fixed: Fixed) -> Chosen:
    """The tokens of one step; without the dimension of steps."""

    def bound(logits: jax.Array, allowed: jax.Array) -> jax.Array:
        bits = (allowed[:, :, None] >> jnp.arange(32, dtype=jnp.int32)) & 1
        return jnp.where(bits.reshape(len(allowed), -1)[:, : logits.shape[1]] == 1, logits, -jnp.inf)

    def most_likely(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        top, tokens = jax.lax.top_k(logits, fixed.alternatives)
        return tokens.astype(jnp.int32), top

    known = known_of(state.logits, fixed)
    permitted = jax.lax.cond(plan.is_bound, bound, lambda logits, _: logits, known, plan.allowed)
    tokens = jnp.where(active, next_tokens(permitted, state.prompted, state.written, controls), 0)
    totals = jax.nn.logsumexp(state.logits, -1)
    log_probs = jnp.take_along_axis(state.logits, tokens[:, None], -1)[:, 0] - totals
    shape = (len(tokens), fixed.alternatives)
    none = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
    others, top = jax.lax.cond(plan.wants_alternatives, most_likely, lambda _: none, known)
    return Chosen(tokens, log_probs, others, top - totals[:, None])


def called(model: Any, tokens: jax.Array, cache: Cache, fixed: Fixed) -> Any:
    """The outputs of the model for the next tokens of each row: int32 [row, position]."""
    inputs = Inputs(hax.named(tokens, (BATCH, POSITION)))
    return model(inputs, cache=cache, compute_dtype=jnp.dtype(fixed.dtype))


def features_of(model: CausalLM, outputs: Any) -> jax.Array:
    """The features of a model's outputs: [row, position, embed]."""
    return outputs.features.rearrange((BATCH, POSITION, model.embed.name)).array


def logits_of(model: CausalLM, features: Any) -> jax.Array:
    """float32 [row, token], from features of one position."""
    return model.logits(features).rearrange((BATCH, POSITION, model.vocab.name)).array[:, 0].astype(jnp.float32)


def known_of(logits: jax.Array, fixed: Fixed) -> jax.Array:
    """`logits` [row, token], with -inf for the tokens that are never chosen."""
    if fixed.tokens == logits.shape[-1]:
        return logits
    return jnp.where(jnp.arange(logits.shape[-1]) < fixed.tokens, logits, -jnp.inf)
