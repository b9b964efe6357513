"""The two compiled programs of an engine: tokens of a prompt into one slot, and one token for all slots.

The logits after the last token of each slot are kept. So a step first chooses a token from them and then computes the model, and the choice
of the first token needs no program of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp

from halcyon.inference.sampling import Controls, next_tokens
from halcyon.models import CausalLM, Inputs
from halcyon.models.axes import BATCH, POSITION
from halcyon.models.cache import Cache


class State(NamedTuple):
    """What an engine keeps on the device."""

    cache: Cache
    logits: jax.Array
    """float32 [slot, token]: of the next token."""
    seen: jax.Array
    """bool [slot, token]: tokens of the prompt and of the text."""


class Chosen(NamedTuple):
    """The tokens of a step."""

    tokens: jax.Array
    """int32 [slot]."""
    log_probs: jax.Array
    """float32 [slot]: the logarithm of the model's probability, before temperature, filters and penalties."""
    top_tokens: jax.Array
    """int32 [slot, alternative]: the most likely tokens."""
    top_log_probs: jax.Array
    """float32 [slot, alternative]."""


class Fixed(NamedTuple):
    """What decides the programs besides the shapes."""

    dtype: str
    """Type of activations and matrix products."""
    tokens: int
    """Tokens that may be chosen are those with an id below this."""
    alternatives: int
    """Most likely tokens that each step reports."""


def empty(model: Any, fixed: Fixed, slots: int, length: int, pages: int) -> State:
    """The state without a request; see `Cache.of`."""
    vocabulary = model.vocab.size
    cache = model.new_cache(slots, length, fixed.dtype, pages=pages)
    return State(cache, jnp.zeros((slots, vocabulary), jnp.float32), jnp.zeros((slots, vocabulary), bool))


@functools.partial(jax.jit, static_argnames="fixed", donate_argnames="state")
def prefill(
    model: CausalLM,
    state: State,
    slot: jax.Array,
    tokens: jax.Array,
    count: jax.Array,
    begins: jax.Array,
    start: jax.Array,
    pages: jax.Array,
    *,
    fixed: Fixed,
) -> State:
    """Compute the next tokens of a prompt.

    Args:
        model: The model.
        state: The state; its memory is used again.
        slot: int32: the slot of the request.
        tokens: int32 [position]; those from `count` on are padding.
        count: int32: tokens that count.
        begins: bool: whether these are the first tokens of the prompt.
        start: int32: tokens of the prompt before these, which are in the pages already.
        pages: int32 [page]: the pages of the slot.
        fixed: What decides the program.
    """
    cache = dataclasses.replace(state.cache, table=state.cache.table.at[slot].set(pages))
    inputs = Inputs(hax.named(tokens[None], (BATCH, POSITION)))
    row = dataclasses.replace(cache.row(slot, begins), lengths=start[None])
    outputs = _called(model, inputs, row.expecting(count[None]), fixed)
    features = outputs.features.rearrange((BATCH, POSITION, model.embed.name)).array
    last = jax.lax.dynamic_slice_in_dim(features, count - 1, 1, 1)
    logits = _logits(model, hax.named(last, (BATCH, POSITION, model.embed.name)), fixed)[0]
    counted = jnp.where(jnp.arange(tokens.shape[0]) < count, tokens, state.seen.shape[1])
    seen = jnp.where(begins, jnp.zeros_like(state.seen[slot]), state.seen[slot]).at[counted].set(True, mode="drop")
    return State(cache.with_row(slot, outputs.cache), state.logits.at[slot].set(logits), state.seen.at[slot].set(seen))


@functools.partial(jax.jit, donate_argnames="state")
def mark(state: State, slot: jax.Array, tokens: jax.Array, count: jax.Array) -> State:
    """Set the tokens that a slot has seen to those of the beginning of a prompt whose pages were found.

    Args:
        state: The state; its memory is used again.
        slot: int32: the slot of the request.
        tokens: int32 [position]; those from `count` on are padding.
        count: int32: tokens that count.
    """
    counted = jnp.where(jnp.arange(tokens.shape[0]) < count, tokens, state.seen.shape[1])
    seen = jnp.zeros_like(state.seen[0]).at[counted].set(True, mode="drop")
    return state._replace(seen=state.seen.at[slot].set(seen))


@functools.partial(jax.jit, static_argnames="fixed", donate_argnames="state")
def decode(
    model: CausalLM, state: State, controls: Controls, active: jax.Array, allowed: jax.Array, wanted: jax.Array, *, fixed: Fixed
) -> tuple[State, Chosen]:
    """Choose a token in each active slot, and compute it.

    The masks of grammars are an argument of every step, so a request has the same program whether or not another one has a grammar.

    Args:
        model: The model.
        state: The state; its memory is used again.
        controls: The settings of each slot.
        active: bool [slot]: slots whose prompt is computed.
        allowed: int32 [slot, word]: a bit for each token that may be chosen, the lowest bit of a word first.
        wanted: bool: whether a slot reports alternatives.
        fixed: What decides the program.
    """
    vocabulary = state.logits.shape[1]
    bits = (allowed[:, :, None] >> jnp.arange(32, dtype=jnp.int32)) & 1
    permitted = jnp.where(bits.reshape(len(allowed), -1)[:, :vocabulary] == 1, state.logits, -jnp.inf)
    tokens = jnp.where(active, next_tokens(permitted, state.seen, controls), 0)
    log_probs = jax.nn.log_softmax(state.logits)
    none = jnp.zeros((len(tokens), fixed.alternatives), jnp.float32), jnp.zeros((len(tokens), fixed.alternatives), jnp.int32)
    top, alternatives = jax.lax.cond(wanted, lambda x: tuple(jax.lax.top_k(x, fixed.alternatives)), lambda _: none, log_probs)
    chosen = Chosen(tokens, jnp.take_along_axis(log_probs, tokens[:, None], -1)[:, 0], alternatives.astype(jnp.int32), top)
    outputs = _called(model, Inputs(hax.named(tokens[:, None], (BATCH, POSITION))), state.cache.expecting(active.astype(jnp.int32)), fixed)
    logits = jnp.where(active[:, None], _logits(model, outputs.features, fixed), state.logits)
    new = jnp.where(active, tokens, state.seen.shape[1])
    seen = state.seen.at[jnp.arange(len(tokens)), new].set(True, mode="drop")
    return State(outputs.cache, logits, seen), chosen


def _called(model: Any, inputs: Inputs, cache: Cache, fixed: Fixed) -> Any:
    return model(inputs, cache=cache, compute_dtype=jnp.dtype(fixed.dtype))


def _logits(model: CausalLM, features: Any, fixed: Fixed) -> jax.Array:
    """float32 [row, token], from features of one position."""
    logits = model.logits(features).rearrange((BATCH, POSITION, model.vocab.name)).array[:, 0].astype(jnp.float32)
    return jnp.where(jnp.arange(logits.shape[-1]) < fixed.tokens, logits, -jnp.inf)
