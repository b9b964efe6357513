"""Attention by blocks of queries and blocks of keys: neither pass holds the scores of a whole sequence.

The forward pass visits the keys with a running maximum and a running sum of exponentials, and keeps the logarithm of that sum for each
query (Rabe and Staats 2021; Dao et al. 2022). The backward pass computes the scores of each pair of blocks again. For each block of
queries, both visit only the range of key blocks that the mask may show (`Mask.key_range`): half of them for a causal mask.

The gradients of keys and values are sums over blocks of queries, and the result is a sum over blocks of keys. These sums are float32
whatever the compute type: otherwise their error would grow with the number of blocks.
"""

from __future__ import annotations

import functools
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import Axis, NamedArray

from halcyon.models.elementwise import expanded, with_array
from halcyon.models.parts.linear import contract
from halcyon.models.parts.masks import Block, Mask
from halcyon.models.position_blocks import run
from halcyon.models.remat import attended

_MASKED = -1e30
_LEAST = -1e38
"""The running maximum before the first key. It is below every masked score, so the difference of the two is never zero."""

_Saved = tuple[NamedArray, NamedArray, NamedArray, Mask | None, NamedArray | None, NamedArray, NamedArray]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8, 9, 10))
def attend_in_blocks(
    query: NamedArray,
    key: NamedArray,
    value: NamedArray,
    mask: Mask | None,
    sinks: NamedArray | None,
    position: Axis,
    key_position: Axis,
    head_size: Axis,
    value_size: Axis,
    soft_cap: float | None,
    block: int,
) -> NamedArray:
    """See `halcyon.models.parts.attention.attention`; the queries are already scaled, and `block` divides both lengths."""
    return _Blocks(query, mask, position, key_position, head_size, value_size, soft_cap, block).forward(query, key, value, sinks)[0]


def _forward(
    query: NamedArray,
    key: NamedArray,
    value: NamedArray,
    mask: Mask | None,
    sinks: NamedArray | None,
    position: Axis,
    key_position: Axis,
    head_size: Axis,
    value_size: Axis,
    soft_cap: float | None,
    block: int,
) -> tuple[NamedArray, _Saved]:
    blocks = _Blocks(query, mask, position, key_position, head_size, value_size, soft_cap, block)
    result, log_totals = attended(blocks.forward(query, key, value, sinks))
    return result, (query, key, value, mask, sinks, result, log_totals)


def _backward(
    position: Axis,
    key_position: Axis,
    head_size: Axis,
    value_size: Axis,
    soft_cap: float | None,
    block: int,
    saved: _Saved,
    cotangent: NamedArray,
) -> tuple[NamedArray, NamedArray, NamedArray, None, NamedArray | None]:
    query, key, value, mask, sinks, result, log_totals = saved
    blocks = _Blocks(query, mask, position, key_position, head_size, value_size, soft_cap, block)
    by_query, by_key, by_value = blocks.backward(query, key, value, result, log_totals, cotangent)
    by_sinks = None if sinks is None else blocks.by_sinks(sinks, result, log_totals, cotangent)
    return by_query, by_key, by_value, None, by_sinks


attend_in_blocks.defvjp(_forward, _backward)


class _Blocks:
    """The loops over blocks. Axes of scores: the query's other axes, then its position, then the key's position."""

    def __init__(
        self,
        query: NamedArray,
        mask: Mask | None,
        position: Axis,
        key_position: Axis,
        head_size: Axis,
        value_size: Axis,
        soft_cap: float | None,
        block: int,
    ) -> None:
        self._mask, self._soft_cap = mask, soft_cap
        self._position, self._key_position, self._head_size, self._value_size = position, key_position, head_size, value_size
        self._queries, self._keys = position.resize(block), key_position.resize(block)
        self._heads = tuple(axis for axis in query.axes if axis not in (position, head_size))
        self._rows = (*self._heads, self._queries)
        """Axes of an array with one number for each query of a block."""
        starts = range(0, position.size, block)
        ranges = [(0, key_position.size) if mask is None else mask.key_range(at, at + block - 1, key_position.size) for at in starts]
        self._count = len(ranges)
        self._first = jnp.asarray(np.array([start // block for start, _ in ranges], np.int32))
        self._end = jnp.asarray(np.array([max(start // block, -(-end // block)) for start, end in ranges], np.int32))
        self._block = block

    def forward(self, query: NamedArray, key: NamedArray, value: NamedArray, sinks: NamedArray | None) -> tuple[NamedArray, NamedArray]:
        """The result, and the logarithm of each query's sum of exponentials: (..., position), float32."""

        def of_queries(number: jax.Array) -> tuple[NamedArray, NamedArray]:
            mine = self._part(query, self._position, self._queries, number)

            def add(at: jax.Array, sums: tuple[NamedArray, NamedArray, NamedArray]) -> tuple[NamedArray, NamedArray, NamedArray]:
                greatest, total, result = sums
                scores, _ = self._scores(mine, self._part(key, self._key_position, self._keys, at), number, at)
                new: Any = hax.maximum(greatest, hax.max(scores, self._keys))
                powers = hax.exp(scores - new)
                shrunk = hax.exp(greatest - new)
                part = contract(
                    powers.astype(query.dtype),
                    self._part(value, self._key_position, self._keys, at),
                    self._keys,
                    into=jnp.float32,
                    order=result.axes,
                )
                return new, total * shrunk + hax.sum(powers, self._keys), result * shrunk + part

            if sinks is None:
                greatest, total = hax.full(self._rows, _LEAST, dtype=jnp.float32), hax.zeros(self._rows, dtype=jnp.float32)
            else:
                greatest = sinks.astype(jnp.float32).broadcast_to(self._rows)
                total = hax.ones(self._rows, dtype=jnp.float32)
            start = (greatest, total, hax.zeros((*self._rows, self._value_size), dtype=jnp.float32))
            greatest, total, result = jax.lax.fori_loop(self._first[number], self._end[number], add, start)
            # A query that sees no key has only masked scores, or none. Its maximum shows this, and its result is zero.
            seen = hax.greater(greatest, _MASKED / 2)
            result = hax.where(seen, result / hax.where(seen, total, 1.0), 0.0)
            log_totals = hax.where(seen, greatest + hax.log(hax.where(seen, total, 1.0)), -_LEAST)
            return result.rearrange(self._result_axes(query)).astype(query.dtype), log_totals

        results, log_totals = jax.lax.map(of_queries, jnp.arange(self._count))
        return self._joined(results), self._joined(log_totals)

    def backward(
        self, query: NamedArray, key: NamedArray, value: NamedArray, result: NamedArray, log_totals: NamedArray, cotangent: NamedArray
    ) -> tuple[NamedArray, NamedArray, NamedArray]:
        """The gradients with respect to query, key and value."""

        def of_queries(sums: tuple[NamedArray, NamedArray], number: jax.Array) -> tuple[tuple[NamedArray, NamedArray], NamedArray]:
            mine, my_result, my_cotangent, my_totals = (
                self._part(x, self._position, self._queries, number) for x in (query, result, cotangent, log_totals)
            )
            mean = self._mean(my_result, my_cotangent)

            def add(at: jax.Array, sums: tuple[NamedArray, NamedArray, NamedArray]) -> tuple[NamedArray, NamedArray, NamedArray]:
                by_query, by_key, by_value = sums
                keys, values = (self._part(x, self._key_position, self._keys, at) for x in (key, value))
                scores, slope = self._scores(mine, keys, number, at)
                weights = hax.exp(scores - my_totals)
                part = contract(weights.astype(query.dtype), my_cotangent, self._summed(value), into=jnp.float32, order=values.axes)
                by_value = self._added(by_value, part, at)
                by_weights = contract(my_cotangent, values, self._value_size, into=jnp.float32, order=scores.axes)
                by_scores = weights * (by_weights - mean)
                by_scores = (by_scores if slope is None else by_scores * slope).astype(query.dtype)
                part = contract(by_scores, mine, self._summed(key), into=jnp.float32, order=keys.axes)
                by_key = self._added(by_key, part, at)
                return by_query + contract(by_scores, keys, self._keys, into=jnp.float32, order=by_query.axes), by_key, by_value

            start = (hax.zeros(mine.axes, dtype=jnp.float32), *sums)
            by_query, *sums_now = jax.lax.fori_loop(self._first[number], self._end[number], add, start)
            return (sums_now[0], sums_now[1]), by_query.astype(query.dtype)

        start = (hax.zeros(key.axes, dtype=jnp.float32), hax.zeros(value.axes, dtype=jnp.float32))
        (by_key, by_value), by_query = jax.lax.scan(of_queries, start, jnp.arange(self._count))
        return self._joined(by_query), by_key.astype(key.dtype), by_value.astype(value.dtype)

    def by_sinks(self, sinks: NamedArray, result: NamedArray, log_totals: NamedArray, cotangent: NamedArray) -> NamedArray:
        """The gradient with respect to the sinks, whose weight reduces the weights of all values."""
        mean = self._mean(result, cotangent)
        weights = hax.exp(sinks.astype(jnp.float32).broadcast_to(log_totals.axes) - log_totals)
        summed = tuple(axis for axis in log_totals.axes if axis not in sinks.axes)
        return (-hax.sum(weights * mean.rearrange(log_totals.axes), summed)).rearrange(sinks.axes).astype(sinks.dtype)

    def _scores(self, query: NamedArray, key: NamedArray, number: jax.Array, at: jax.Array) -> tuple[NamedArray, NamedArray | None]:
        """Scores of a pair of blocks, masked and capped, and the derivative of the cap (None without a cap)."""
        scores = contract(query, key, self._head_size, into=jnp.float32, order=(*self._rows, self._keys))
        slope = None
        if self._soft_cap is not None:
            capped = hax.tanh(scores / self._soft_cap)
            scores, slope = self._soft_cap * capped, 1.0 - capped * capped
        if self._mask is not None:
            visible = self._mask.visible(
                Block(self._queries, number * self._block, self._position), Block(self._keys, at * self._block, self._key_position)
            )
            scores = with_array(scores, jnp.where(expanded(visible, scores.axis_names), scores.array, _MASKED))
        return scores, slope

    def _mean(self, result: NamedArray, cotangent: NamedArray) -> NamedArray:
        """The mean of the gradient with respect to the weights, weighted by them; the derivative of the softmax subtracts it."""
        return hax.sum(result.astype(jnp.float32) * cotangent.astype(jnp.float32), self._value_size)

    def _summed(self, x: NamedArray) -> tuple[Axis, ...]:
        """The axes that gradients of keys or values are summed over: the queries, and the heads that share `x`."""
        return tuple(axis for axis in self._rows if axis.name not in x.axis_names)

    def _result_axes(self, query: NamedArray) -> tuple[Axis, ...]:
        sized = {self._head_size.name: self._value_size, self._position.name: self._queries}
        return tuple(sized.get(axis.name, axis) for axis in query.axes)

    def _part(self, x: NamedArray, whole: Axis, part: Axis, number: jax.Array) -> NamedArray:
        return run(x, whole, part, number * self._block)

    def _added(self, total: NamedArray, part: NamedArray, number: jax.Array) -> NamedArray:
        at = total.axis_names.index(self._key_position.name)
        old = jax.lax.dynamic_slice_in_dim(total.array, number * self._block, self._block, at)
        return with_array(total, jax.lax.dynamic_update_slice_in_dim(total.array, old + part.array, number * self._block, at))

    def _joined(self, x: Any) -> NamedArray:
        """Join blocks of queries, which a loop has stacked in front, into one array."""
        at = x.axis_names.index(self._position.name)
        runs = jnp.moveaxis(x.array, 0, at)
        return with_array(x, runs.reshape(*runs.shape[:at], -1, *runs.shape[at + 2 :]))
