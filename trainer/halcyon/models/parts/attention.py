"""Attention: one function with several implementations, which compute the same numbers up to rounding.

Scores and softmax are float32 whatever the compute type. No implementation keeps scores for the backward pass: their
memory, and the time to write it, grow with the square of the sequence length.

- ``reference`` computes one product over all pairs of queries and keys. JAX differentiates it.
- ``blockwise`` computes a block of queries and a block of keys at a time, and skips the blocks that the mask hides (see
  `halcyon.models.parts.blockwise_attention`).
- ``splash`` and ``tokamax`` are kernels for TPUs and NVIDIA GPUs (`halcyon.models.parts.splash_attention`,
  `tokamax_attention`).
- ``ring`` computes blocks too, where a mesh splits the positions (`halcyon.models.parts.ring_attention`).

`halcyon.models.parts.attention_choice` chooses one of them.
"""

import functools
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import BATCH, HEAD_SIZE, KEY_POSITION, POSITION, elementwise, recomputed
from halcyon.models.dropout import Dropout
from halcyon.models.partition import parts_of
from halcyon.models.parts.attention_blocks import MASKED, AttentionShape, CallArrays
from halcyon.models.parts.attention_choice import Implementation, Request, chosen, kernel_on, present_target
from halcyon.models.parts.blockwise_attention import attend_in_blocks
from halcyon.models.parts.kernel_attention import kernel_mask
from halcyon.models.parts.masks import Block, Mask, surely_sees_itself
from halcyon.models.parts.ring_attention import attend_in_ring
from halcyon.models.parts.splash_attention import attend_by_splash
from halcyon.models.parts.tokamax_attention import attend_by_tokamax
from halcyon.models.parts.weight import contract
from halcyon.models.remat import attended

BLOCK = 512
"""Queries, and keys, of a block."""


@jax.named_scope("attention")
def attention(
    query: NamedArray,
    key: NamedArray,
    value: NamedArray,
    mask: Mask | None = None,
    *,
    value_size: Axis | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    sinks: NamedArray | None = None,
    dropout: Dropout | None = None,
    implementation: Implementation | None = None,
    block: int = BLOCK,
) -> NamedArray:
    """The values that each query sees, weighted by the softmax of its scores. A query that sees no key gets zeros.

    Args:
        query: (..., position, ..., head_size). Axes that `key` lacks, such as the queries of a group, share keys and
            values.
        key: (..., key_position, ..., head_size).
        value: (..., key_position, ..., value_size), otherwise like `key`.
        mask: The keys that a query sees. None: all.
        value_size: Features of a value. Default: those of a query.
        scale: Factor of the scores. Default: 1 / sqrt(head_size).
        soft_cap: Smooth limit of the scores: ``cap * tanh(score / cap)`` (Gemma Team 2024). None: no limit.
        sinks: Scores of a key without a value, over axes of the heads (Xiao et al. 2023). None: no such key.
        dropout: Drops weights of keys. None: none.
        implementation: Default: that of the context (see `halcyon.models.parts.attention_choice.attending`), else the
            best one.
        block: Number of queries, and of keys, that are computed together, where the implementation computes blocks.

    Returns:
        An array with the type and the axes of `query`, with `value_size` in the place of `head_size`.

    Raises:
        ValueError: `soft_cap` is not positive.
        CannotServe: The given implementation cannot compute this call.
    """
    if soft_cap is not None and soft_cap <= 0:
        raise ValueError(f"soft_cap is {soft_cap}; give a positive number, or None for no limit")
    position, head_size = query.resolve_axis(POSITION), query.resolve_axis(HEAD_SIZE)
    key_position = key.resolve_axis(KEY_POSITION)
    form = AttentionShape(position, key_position, head_size, value_size or head_size, soft_cap, block)
    rows = BATCH not in query.axis_names or (BATCH in key.axis_names and BATCH in value.axis_names)
    batch = -(-query.axis_size(BATCH) // parts_of(query.resolve_axis(BATCH))) if BATCH in query.axis_names else 1
    request = Request(form, mask, query.dtype, parts_of(position), rows, batch, dropout is not None)
    name = chosen(request, implementation)
    query = query * (head_size.size**-0.5 if scale is None else scale)
    given = CallArrays(query, key, value, mask, sinks)
    if name == "blockwise":
        # Measured on the processor only (tests/bench/results); on accelerators, a product of more rows is a larger one.
        return attend_in_blocks(given, form, by_row=present_target().platform == "cpu")
    if name == "ring":
        return attend_in_ring(given, form)
    known: Any = kernel_mask(mask)
    if name == "splash":
        return attend_by_splash(given, known, form, interpret=present_target().interpret)
    if name == "tokamax":
        return attend_by_tokamax(given, known, form, kernel_on(request, present_target()))
    return attended(recomputed(functools.partial(_attend, form))(given, dropout))


def _attend(form: AttentionShape, given: CallArrays, dropout: Dropout | None) -> NamedArray:
    """Attention of all queries to all keys."""
    query, key, value, mask, sinks = given
    position, key_position, head_size, soft_cap = form.position, form.key_position, form.head_size, form.soft_cap
    # Positions last: this is the order that the products before and after need for the scores, which are the largest
    # array.
    order = (*(axis for axis in query.axes if axis not in (position, head_size)), position, key_position)
    scores = contract(query, key, head_size, into=jnp.float32, order=order)
    if soft_cap is not None:
        scores = elementwise(recomputed(lambda scores: soft_cap * jnp.tanh(scores / soft_cap)), scores)
    out_axes = tuple(form.value_size if axis == head_size else axis for axis in query.axes)
    visible = None if mask is None else mask.visible(Block.all_of(position), Block.all_of(key_position))
    certain = surely_sees_itself(mask) or sinks is not None
    # Add a bias instead of selecting: the backward pass then needs no mask, because a weight of zero has no gradient.
    masked = () if visible is None else (hax.where(visible, 0.0, MASKED),)
    extra = () if sinks is None else (sinks.astype(jnp.float32),)

    def weigh(scores: jax.Array, *others: jax.Array) -> jax.Array:
        if visible is not None:
            scores = scores + others[0]
        if sinks is not None:
            sink = others[-1]
            greatest = jnp.maximum(jnp.max(scores, -1, keepdims=True), sink)
            powers = jnp.exp(scores - greatest)
            return powers / (jnp.sum(powers, -1, keepdims=True) + jnp.exp(sink - greatest))
        weights = jax.nn.softmax(scores)
        return weights if certain else weights * (jnp.max(scores, -1, keepdims=True) > MASKED / 2)

    weights = elementwise(weigh, scores, *masked, *extra)
    weights = weights if dropout is None else dropout(weights)
    return contract(weights.astype(query.dtype), value, key_position, order=out_axes)
