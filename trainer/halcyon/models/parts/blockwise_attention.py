"""Attention by blocks of queries and blocks of keys: neither pass holds the scores of a whole sequence.

For each block of queries, both passes visit only the range of key blocks that the mask may show (`Mask.key_range`,
`Mask.block_ranges`): half of them for a causal mask, and those of its own documents where documents are apart. A block
that is left out would add nothing but zeros, so the numbers are the same bits. Each device has the ranges of its own
rows. `halcyon.models.parts.attention_blocks` has the arithmetic of a pair of blocks.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import Axis, NamedArray

from halcyon.models.axes import BATCH, KEY_POSITION, POSITION, is_named, joined, run, with_array
from halcyon.models.partition import Result, Shard, by_device
from halcyon.models.parts.attention_blocks import AttentionShape, BlockPairs, CallArrays, Sums, by_sinks, mean_gradient
from halcyon.models.parts.kernel_attention import result_names
from halcyon.models.parts.masks import Mask, Prefix, Segments, conjuncts
from halcyon.models.remat import attended

_Saved = tuple[CallArrays, NamedArray, NamedArray]


def attend_in_blocks(given: CallArrays, form: AttentionShape, *, by_row: bool) -> NamedArray:
    """See `halcyon.models.parts.attention.attention`.

    If the block does not divide a length, the sequence is padded, and the mask hides the padding.

    Args:
        given: The arrays.
        form: The axes.
        by_row: Whether each row has its own ranges of keys, where the arrays of the mask bound them; rows are then
            computed one after the other. Otherwise a device has one range for all its rows, and computes them together.
    """
    position, key_position = (
        axis.resize(-(-axis.size // form.block) * form.block) for axis in (form.position, form.key_position)
    )
    if (position, key_position) == (form.position, form.key_position):
        return _attend(given, form, by_row)
    hidden = Prefix(form.key_position.size)
    # The ids of the last segment go on in the padding: other ids there could overlap with those of earlier blocks.
    mask = hidden if given.mask is None else _padded(given.mask, form, position, key_position, "edge") & hidden
    query, key, value = (_padded(x, form, position, key_position) for x in given[:3])
    whole = dataclasses.replace(form, position=position, key_position=key_position)
    given = CallArrays(query, key, value, mask, given.sinks)
    return run(_attend(given, whole, by_row), position, form.position, 0)


def _padded(
    tree: Any, form: AttentionShape, position: Axis, key_position: Axis, mode: Literal["constant", "edge"] = "constant"
) -> Any:
    """A tree of arrays with zeros, or their last element, at the end of their positions."""
    sizes = {form.position: position, form.key_position: key_position}

    def one(x: NamedArray) -> NamedArray:
        widths = [(0, sizes[axis].size - axis.size if axis in sizes else 0) for axis in x.axes]
        return NamedArray(jnp.pad(x.array, widths, mode=mode), x.axis_names)

    return jax.tree.map(one, tree, is_leaf=is_named)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(given: CallArrays, form: AttentionShape, by_row: bool) -> NamedArray:
    return _forward(given, form, by_row)[0]


def _forward(given: CallArrays, form: AttentionShape, by_row: bool) -> tuple[NamedArray, _Saved]:
    names = result_names(given.query, form)
    one_number = (
        *(name for name in names if name not in (form.value_size.name, POSITION)),
        POSITION,
    )

    def of_device(given: Any, narrow: bool) -> tuple[NamedArray, ...]:
        query, key, value, mask, sinks = given
        return _Blocks(query, mask, form, narrow=narrow).forward(query, key, value, sinks)

    result, log_totals = attended(_by_device(of_device, given, (names, one_number), by_row))
    return result, (given, result, log_totals)


def _backward(form: AttentionShape, by_row: bool, saved: _Saved, cotangent: NamedArray) -> tuple[CallArrays]:
    (query, key, value, mask, sinks), result, log_totals = saved

    def of_device(given: Any, narrow: bool) -> tuple[NamedArray, ...]:
        query, key, value, mask, result, log_totals, cotangent = given
        return _Blocks(query, mask, form, narrow=narrow).backward(query, key, value, result, log_totals, cotangent)

    given = (query, key, value, mask, result, log_totals, cotangent)
    by_query, by_key, by_value = _by_device(of_device, given, tuple(x.axis_names for x in (query, key, value)), by_row)
    gradient = None if sinks is None else by_sinks(sinks, mean_gradient(result, cotangent, form.value_size), log_totals)
    return (CallArrays(by_query, by_key, by_value, None, gradient),)


_attend.defvjp(_forward, _backward)

_OfDevice = Callable[[Any, bool], tuple[NamedArray, ...]]


def _by_device(
    function: _OfDevice, given: Any, results: tuple[tuple[str, ...], ...], by_row: bool
) -> tuple[NamedArray, ...]:
    """``function(given, narrow)``. Where the arrays of the mask bound the keys, each device calls it for its own rows.

    Otherwise the bounds would be those of all rows of all devices, and the devices would exchange them.

    Args:
        function: Computes the results of some rows.
        given: A tree of arrays: query, key, value, mask, and others.
        results: The axes of the results.
        by_row: See `attend_in_blocks`.
    """
    query, key, value, mask = given[:4]
    rows = BATCH not in query.axis_names or (BATCH in key.axis_names and BATCH in value.axis_names)
    if not rows or not any(isinstance(part, Segments) for part in conjuncts(mask)):
        return function(given, False)

    def of_device(shard: Shard, given: Any, parameters: tuple[()]) -> tuple[NamedArray, ...]:
        del shard, parameters
        return (
            _row_by_row(function, given, results) if by_row and BATCH in given[0].axis_names else function(given, True)
        )

    return by_device(of_device, given, (), tuple(Result(names) for names in results))


def _row_by_row(function: _OfDevice, given: Any, results: tuple[tuple[str, ...], ...]) -> tuple[NamedArray, ...]:
    """``function`` of each row of the batch; all results have an axis for the rows."""
    rows = given[0].axis_size(BATCH)

    def of_row(number: jax.Array) -> tuple[NamedArray, ...]:
        mine = jax.tree.map(lambda x: x[BATCH, number] if BATCH in x.axis_names else x, given, is_leaf=is_named)
        found = function(mine, True)
        return tuple(
            x.rearrange([name for name in names if name != BATCH]) for x, names in zip(found, results, strict=True)
        )

    found = jax.lax.map(of_row, jnp.arange(rows))
    return tuple(
        NamedArray(jnp.moveaxis(x.array, 0, names.index(BATCH)), names) for x, names in zip(found, results, strict=True)
    )


class _Blocks:
    """The loops over blocks.

    Args:
        query: The queries.
        mask: The keys that a query sees.
        form: The axes.
        narrow: Whether to leave out the blocks that the arrays of the mask hide.
    """

    def __init__(self, query: NamedArray, mask: Mask | None, form: AttentionShape, *, narrow: bool) -> None:
        self._form = form
        self._pairs = BlockPairs(form, mask, query.axes)
        self._queries, self._keys = self._pairs.queries, self._pairs.keys
        block, keys = form.block, form.key_position.size
        starts = range(0, form.position.size, block)
        ranges = [(0, keys) if mask is None else mask.key_range(at, at + block - 1, keys) for at in starts]
        self._count = len(ranges)
        self._first = jnp.asarray(np.array([start // block for start, _ in ranges], np.int32))
        self._end = jnp.asarray(np.array([max(start // block, -(-end // block)) for start, end in ranges], np.int32))
        bounds = mask.block_ranges(form.position, form.key_position, block) if narrow and mask is not None else None
        if bounds is not None:
            self._first, self._end = jnp.maximum(self._first, bounds.first), jnp.minimum(self._end, bounds.end)

    def forward(
        self, query: NamedArray, key: NamedArray, value: NamedArray, sinks: NamedArray | None
    ) -> tuple[NamedArray, NamedArray]:
        """The result, and the logarithm of each query's sum of exponentials: (..., position), float32."""

        def of_queries(number: jax.Array) -> tuple[NamedArray, NamedArray]:
            mine = self._part(query, self._form.position, self._queries, number)

            def add(at: jax.Array, sums: Sums) -> Sums:
                keys, values = (self._part(x, self._form.key_position, self._keys, at) for x in (key, value))
                return self._pairs.add(sums, mine, keys, values, number * self._form.block, at * self._form.block)

            sums = jax.lax.fori_loop(self._first[number], self._end[number], add, self._pairs.start(sinks))
            return self._pairs.finish(sums, query.dtype)

        results, log_totals = jax.lax.map(of_queries, jnp.arange(self._count))
        return joined(results), joined(log_totals)

    def backward(
        self,
        query: NamedArray,
        key: NamedArray,
        value: NamedArray,
        result: NamedArray,
        log_totals: NamedArray,
        cotangent: NamedArray,
    ) -> tuple[NamedArray, NamedArray, NamedArray]:
        """The gradients with respect to query, key and value."""

        def of_queries(
            sums: tuple[NamedArray, NamedArray], number: jax.Array
        ) -> tuple[tuple[NamedArray, NamedArray], NamedArray]:
            mine, my_result, my_cotangent, my_totals = (
                self._part(x, self._form.position, self._queries, number)
                for x in (query, result, cotangent, log_totals)
            )
            mean = mean_gradient(my_result, my_cotangent, self._form.value_size)

            def add(at: jax.Array, sums: Sums) -> Sums:
                by_query, by_key, by_value = sums
                keys, values = (self._part(x, self._form.key_position, self._keys, at) for x in (key, value))
                parts = self._pairs.gradients(
                    mine, keys, values, my_cotangent, my_totals, mean, number * self._form.block, at * self._form.block
                )
                return by_query + parts[0], self._added(by_key, parts[1], at), self._added(by_value, parts[2], at)

            start = (hax.zeros(mine.axes, dtype=jnp.float32), *sums)
            by_query, *sums_now = jax.lax.fori_loop(self._first[number], self._end[number], add, start)
            return (sums_now[0], sums_now[1]), by_query.astype(query.dtype)

        start = (hax.zeros(key.axes, dtype=jnp.float32), hax.zeros(value.axes, dtype=jnp.float32))
        (by_key, by_value), by_query = jax.lax.scan(of_queries, start, jnp.arange(self._count))
        return joined(by_query), by_key.astype(key.dtype), by_value.astype(value.dtype)

    def _part(self, x: NamedArray, whole: Axis, part: Axis, number: jax.Array) -> NamedArray:
        return run(x, whole, part, number * self._form.block)

    def _added(self, total: NamedArray, part: NamedArray, number: jax.Array) -> NamedArray:
        return added(total, part, KEY_POSITION, number * self._form.block)


def added(total: NamedArray, part: NamedArray, axis: str, first: jax.Array) -> NamedArray:
    """`total` with `part` added from index `first` of an axis on."""
    at = total.axis_names.index(axis)
    old = jax.lax.dynamic_slice_in_dim(total.array, first, part.array.shape[at], at)
    return with_array(total, jax.lax.dynamic_update_slice_in_dim(total.array, old + part.array, first, at))
