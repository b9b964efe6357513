"""Attention of one block of queries to one block of keys: the arithmetic that `blockwise_attention` and
`ring_attention` share.

Forward, each query keeps the greatest score so far, the sum of the exponentials of its scores, relative to the
greatest, and the sum of the values weighted by them (Rabe and Staats 2021; Dao et al. 2022). Keys may be added in any
order. Backward, the scores of a pair are computed again. All sums are float32 whatever the compute type: otherwise
their error would grow with the number of blocks.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import haliax as hax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import HEAD_SIZE, POSITION, expanded, with_array
from halcyon.models.parts.masks import Block, Mask
from halcyon.models.parts.weight import contract

MASKED = -1e30
_LEAST = -1e38
"""The running maximum before the first key.

It is below every masked score, so the difference of the two is never zero.
"""

Sums = tuple[NamedArray, NamedArray, NamedArray]
"""For each query of a block: its greatest score, the sum of exponentials, the weighted sum of values."""


class CallArrays(NamedTuple):
    """The arrays of one call of attention, or their gradients; a mask has none."""

    query: NamedArray
    """The queries, already scaled."""
    key: NamedArray
    value: NamedArray
    mask: Mask | None
    """The keys that a query sees. None: all."""
    sinks: NamedArray | None
    """Scores of a key without a value. None: no such key."""


@dataclass(frozen=True)
class AttentionShape:
    """What one call of attention knows before it runs.

    Attributes:
        position: All queries.
        key_position: All keys.
        head_size: The axis that a score is summed over.
        value_size: Features of a value.
        soft_cap: Smooth limit of the scores.
        block: Queries, and keys, that are computed together.
    """

    position: Axis
    key_position: Axis
    head_size: Axis
    value_size: Axis
    soft_cap: float | None
    block: int


class BlockPairs:
    """Computes pairs of blocks. Axes of scores: the query's other axes, then its position, then the key's position.

    Args:
        form: The call.
        mask: Its mask.
        axes: Axes of the queries.
        whole: The axis by which the arrays of the mask name all queries. Default: that of the call.
    """

    def __init__(
        self, form: AttentionShape, mask: Mask | None, axes: tuple[Axis, ...], whole: Axis | None = None
    ) -> None:
        self._form, self._mask, self._whole = form, mask, whole or form.position
        self.queries, self.keys = form.position.resize(form.block), form.key_position.resize(form.block)
        self.rows = (*(axis for axis in axes if axis.name not in (POSITION, HEAD_SIZE)), self.queries)
        """Axes of an array with one number for each query of a block."""
        sized = {HEAD_SIZE: form.value_size, POSITION: self.queries}
        self._result_axes = tuple(sized.get(axis.name, axis) for axis in axes)

    def start(self, sinks: NamedArray | None) -> Sums:
        """The sums before the first key."""
        if sinks is None:
            greatest, total = hax.full(self.rows, _LEAST, dtype=jnp.float32), hax.zeros(self.rows, dtype=jnp.float32)
        else:
            greatest = sinks.astype(jnp.float32).broadcast_to(self.rows)
            total = hax.ones(self.rows, dtype=jnp.float32)
        return greatest, total, hax.zeros((*self.rows, self._form.value_size), dtype=jnp.float32)

    def add(
        self, sums: Sums, query: NamedArray, key: NamedArray, value: NamedArray, first_query: Any, first_key: Any
    ) -> Sums:
        """The sums after a block of keys.

        Args:
            sums: The sums before it.
            query: The block of queries, already scaled.
            key: The block of keys.
            value: Their values.
            first_query: Index of the block's first query among all queries.
            first_key: Index of the block's first key among all keys.
        """
        greatest, total, result = sums
        scores, _ = self._scores(query, key, first_query, first_key)
        new: Any = hax.maximum(greatest, hax.max(scores, self.keys))
        powers = hax.exp(scores - new)
        shrunk = hax.exp(greatest - new)
        part = contract(powers.astype(query.dtype), value, self.keys, into=jnp.float32, order=result.axes)
        return new, total * shrunk + hax.sum(powers, self.keys), result * shrunk + part

    def finish(self, sums: Sums, dtype: jnp.dtype) -> tuple[NamedArray, NamedArray]:
        """The result in `dtype`, with the axes of the queries, and the logarithm of each query's sum of
        exponentials.
        """
        greatest, total, result = sums
        # A query that sees no key has only masked scores, or none. Its maximum shows this, and its result is zero.
        seen = greatest > MASKED / 2
        result = hax.where(seen, result / hax.where(seen, total, 1.0), 0.0)
        log_totals = hax.where(seen, greatest + hax.log(hax.where(seen, total, 1.0)), -_LEAST)
        return result.rearrange(self._result_axes).astype(dtype), log_totals

    def gradients(
        self,
        query: NamedArray,
        key: NamedArray,
        value: NamedArray,
        cotangent: NamedArray,
        log_totals: NamedArray,
        mean: NamedArray,
        first_query: Any,
        first_key: Any,
    ) -> tuple[NamedArray, NamedArray, NamedArray]:
        """This pair's parts of the gradients with respect to query, key and value; float32.

        Args:
            query: The block of queries, already scaled.
            key: The block of keys.
            value: Their values.
            cotangent: Gradient with respect to the block's results.
            log_totals: See `finish`.
            mean: See `mean_gradient`.
            first_query: Index of the block's first query among all queries.
            first_key: Index of the block's first key among all keys.
        """
        scores, slope = self._scores(query, key, first_query, first_key)
        weights = hax.exp(scores - log_totals)
        by_value = contract(
            weights.astype(query.dtype), cotangent, self._summed(value), into=jnp.float32, order=value.axes
        )
        by_weights = contract(cotangent, value, self._form.value_size, into=jnp.float32, order=scores.axes)
        by_scores = weights * (by_weights - mean)
        by_scores = (by_scores if slope is None else by_scores * slope).astype(query.dtype)
        by_key = contract(by_scores, query, self._summed(key), into=jnp.float32, order=key.axes)
        return contract(by_scores, key, self.keys, into=jnp.float32, order=query.axes), by_key, by_value

    def _scores(
        self, query: NamedArray, key: NamedArray, first_query: Any, first_key: Any
    ) -> tuple[NamedArray, NamedArray | None]:
        """Scores of a pair of blocks, masked and capped, and the derivative of the cap (None without a cap)."""
        form = self._form
        scores = contract(query, key, form.head_size, into=jnp.float32, order=(*self.rows, self.keys))
        slope = None
        if form.soft_cap is not None:
            capped = hax.tanh(scores / form.soft_cap)
            scores, slope = form.soft_cap * capped, 1.0 - capped * capped
        if self._mask is not None:
            visible = self._mask.visible(
                Block(self.queries, first_query, self._whole), Block(self.keys, first_key, form.key_position)
            )
            scores = with_array(scores, jnp.where(expanded(visible, scores.axis_names), scores.array, MASKED))
        return scores, slope

    def _summed(self, x: NamedArray) -> tuple[Axis, ...]:
        """The axes that gradients of keys or values are summed over: the queries, and the heads that share `x`."""
        return tuple(axis for axis in self.rows if axis.name not in x.axis_names)


def mean_gradient(result: NamedArray, cotangent: NamedArray, value_size: Axis) -> NamedArray:
    """For each query, the mean of the gradient with respect to its weights, weighted by them; the softmax's derivative
    subtracts it.
    """
    return hax.sum(result.astype(jnp.float32) * cotangent.astype(jnp.float32), value_size)


def by_sinks(sinks: NamedArray, mean: NamedArray, log_totals: NamedArray) -> NamedArray:
    """The gradient with respect to the sinks, whose weight reduces the weights of all values."""
    weights = hax.exp(sinks.astype(jnp.float32).broadcast_to(log_totals.axes) - log_totals)
    summed = tuple(axis for axis in log_totals.axes if axis not in sinks.axes)
    return (-hax.sum(weights * mean.rearrange(log_totals.axes), summed)).rearrange(sinks.axes).astype(sinks.dtype)
