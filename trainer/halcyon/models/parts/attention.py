"""Causal attention in plain XLA.

Scores and softmax are float32 in every precision. The backward pass computes them again from queries and keys, because to keep them takes
memory, and the time to write it, that grow with the square of the sequence length. Short sequences take one product over all pairs of
positions. Longer ones are computed a block of queries at a time, so that not even the scores of one block of the model are ever all there
(the idea of Rabe and Staats 2021; a block of queries sees its whole row of scores, so no running maximum is needed). The gradients by keys
and values are then sums over blocks, which are float32 in every precision, or their error would grow with the number of blocks.
"""

from __future__ import annotations

import functools
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.elementwise import elementwise, recomputed
from halcyon.models.parts.linear import contract
from halcyon.models.position_blocks import cut, joined

QUERY_BLOCK = 512
"""Queries of a block. Sequences up to twice as long are not cut, and longer ones only where they are a multiple."""

_MASKED = -1e30


def causal_attention(
    query: NamedArray,
    key: NamedArray,
    value: NamedArray,
    *,
    position: Axis,
    key_position: Axis,
    head_size: Axis,
    segment_ids: NamedArray | None = None,
    block: int = QUERY_BLOCK,
) -> NamedArray:
    """Softmax-weighted values of the positions up to and including the query's own.

    Args:
        query: (..., position, ..., head_size). Axes that `key` lacks, such as the queries of a group, share keys and values.
        key: (..., key_position, ..., head_size).
        value: Like `key`.
        position: The queries' positions.
        key_position: The keys' positions, as many.
        head_size: What a score is summed over.
        segment_ids: (..., position) integers. A query sees only keys of its own segment. None: one segment.
        block: Queries computed together when the sequence is a multiple of this number and more than twice as long.

    Returns:
        The axes of `query`, in its type.
    """
    query = query * head_size.size**-0.5
    key_segments = None if segment_ids is None else segment_ids.rename({position: key_position})
    numbers = hax.arange(position)
    if position.size <= 2 * block or position.size % block:
        attend = recomputed(functools.partial(_attend, key_position=key_position, head_size=head_size))
        return attend(query, numbers, segment_ids, key, value, key_segments)
    return _attend_in_blocks(query, numbers, segment_ids, key, value, key_segments, key_position, head_size, position.size // block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _attend_in_blocks(
    query: NamedArray,
    query_numbers: NamedArray,
    query_segments: NamedArray | None,
    key: NamedArray,
    value: NamedArray,
    key_segments: NamedArray | None,
    key_position: Axis,
    head_size: Axis,
    blocks: int,
) -> NamedArray:
    """`_attend`, so many blocks of queries one after the other."""

    def one(queries: tuple[NamedArray, NamedArray, NamedArray | None]) -> NamedArray:
        return _attend(*queries, key, value, key_segments, key_position=key_position, head_size=head_size)

    return joined(jax.lax.map(one, cut((query, query_numbers, query_segments), blocks)))


_Arguments = tuple[NamedArray, NamedArray, NamedArray | None, NamedArray, NamedArray, NamedArray | None]
"""The arrays that `_attend` takes."""


def _attend_in_blocks_forward(
    query: NamedArray,
    query_numbers: NamedArray,
    query_segments: NamedArray | None,
    key: NamedArray,
    value: NamedArray,
    key_segments: NamedArray | None,
    key_position: Axis,
    head_size: Axis,
    blocks: int,
) -> tuple[NamedArray, _Arguments]:
    arguments = (query, query_numbers, query_segments, key, value, key_segments)
    return _attend_in_blocks(*arguments, key_position, head_size, blocks), arguments


def _attend_in_blocks_backward(
    key_position: Axis, head_size: Axis, blocks: int, arguments: _Arguments, cotangent: NamedArray
) -> tuple[NamedArray, None, None, NamedArray, NamedArray, None]:
    query, query_numbers, query_segments, key, value, key_segments = arguments

    def accumulate(sums: tuple[NamedArray, NamedArray], part: Any) -> tuple[tuple[NamedArray, NamedArray], NamedArray]:
        queries, numbers, segments, by_result = part

        def one(queries: NamedArray, key: NamedArray, value: NamedArray) -> NamedArray:
            return _attend(queries, numbers, segments, key, value, key_segments, key_position=key_position, head_size=head_size)

        by_queries, by_key, by_value = jax.vjp(one, queries, key, value)[1](by_result)
        return (sums[0] + by_key.astype(jnp.float32), sums[1] + by_value.astype(jnp.float32)), by_queries

    start = (hax.zeros(key.axes, dtype=jnp.float32), hax.zeros(value.axes, dtype=jnp.float32))
    parts = cut((query, query_numbers, query_segments, cotangent), blocks)
    (by_key, by_value), by_query = jax.lax.scan(accumulate, start, parts)
    return joined(by_query), None, None, by_key.astype(key.dtype), by_value.astype(value.dtype), None


_attend_in_blocks.defvjp(_attend_in_blocks_forward, _attend_in_blocks_backward)


def _attend(
    query: NamedArray,
    query_numbers: NamedArray,
    query_segments: NamedArray | None,
    key: NamedArray,
    value: NamedArray,
    key_segments: NamedArray | None,
    *,
    key_position: Axis,
    head_size: Axis,
) -> NamedArray:
    """Attention of some queries, scaled already, to all keys."""
    visible = hax.greater_equal(query_numbers.broadcast_axis(key_position), hax.arange(key_position))
    if query_segments is not None and key_segments is not None:
        visible = hax.logical_and(visible, hax.equal(query_segments.broadcast_axis(key_position), key_segments))
    position = query_numbers.axes[0]
    # Positions last: the largest array then has the order in which the products on both sides of it want it.
    order = (*(axis for axis in query.axes if axis not in (position, head_size)), position, key_position)
    scores = contract(query, key, head_size, into=jnp.float32, order=order)
    # A bias and not a selection: the backward pass then needs no mask, for a weight of zero has no gradient.
    bias = hax.where(visible, 0.0, _MASKED)
    weights = elementwise(lambda scores, bias: jax.nn.softmax(scores + bias), scores, bias)
    return contract(weights.astype(query.dtype), value, key_position, order=query.axes)
