"""Attention over positions that several devices share: keys and values travel around a ring of the devices (Liu et al.
2023).

Each device keeps its queries. At every step it computes attention to the keys that it holds, block by block, while it
sends these keys to the next device and receives those of the previous one; so no device ever holds the keys of the
whole sequence. Backward, the gradients of keys and values travel with them, as float32 sums, and return to their device
at the end. Steps after the last visible key are left out: a window of 1k over 32k positions needs one neighbour only.

Arrays outside of attention have their positions in natural order. If the work of a step would be uneven (a causal
mask), the devices first exchange half of their positions, which makes it even (see `ring_order`), and exchange them
back after it. So nothing but this module knows the order.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from haliax import NamedArray

from halcyon.models.axes import KEY_POSITION, POSITION, cut, is_named, joined, with_array
from halcyon.models.partition import Result, Shard, by_device, unroll
from halcyon.models.parts.attention_blocks import AttentionShape, BlockPairs, CallArrays, Sums, by_sinks, mean_gradient
from halcyon.models.parts.blockwise_attention import added
from halcyon.models.parts.kernel_attention import result_names
from halcyon.models.parts.masks import Mask
from halcyon.models.parts.ring_order import RingOrder, ring_order, zigzag_runs
from halcyon.models.remat import attended

_WHOLE = "whole_position"
"""Axis of the mask's arrays: they are small, and every device has them whole."""

_Saved = tuple[CallArrays, NamedArray, NamedArray]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def attend_in_ring(given: CallArrays, form: AttentionShape) -> NamedArray:
    """See `halcyon.models.parts.attention.attention`; there is one key for each query."""
    return _forward(given, form)[0]


def _forward(given: CallArrays, form: AttentionShape) -> tuple[NamedArray, _Saved]:
    query, key, value, mask, sinks = given
    mine = result_names(query, form)
    one_number = tuple(name for name in mine if name != form.value_size.name)

    def of_device(shard: Shard, given: Any, parameters: tuple[()]) -> tuple[NamedArray, NamedArray]:
        del parameters
        query, key, value, mask, sinks = given
        ring = _Ring(shard, form, query, mask)
        result, log_totals = ring.forward(ring.arranged(query), ring.arranged(key), ring.arranged(value), sinks)
        return ring.restored(result).rearrange(mine), ring.restored(log_totals).rearrange(one_number)

    split = (query, _split(key), _split(value), _kept_whole(mask), sinks)
    result, log_totals = attended(by_device(of_device, split, (), (Result(mine), Result(one_number))))
    return result, (given, result, log_totals)


def _backward(form: AttentionShape, saved: _Saved, cotangent: NamedArray) -> tuple[CallArrays]:
    (query, key, value, mask, sinks), result, log_totals = saved
    mean = mean_gradient(result, cotangent, form.value_size)

    def of_device(shard: Shard, given: Any, parameters: tuple[()]) -> tuple[NamedArray, ...]:
        del parameters
        *arrays, mask = given
        ring = _Ring(shard, form, arrays[0], mask)
        found = ring.backward(*(ring.arranged(x) for x in arrays))
        return tuple(
            ring.restored(gradient).rearrange(x.axis_names) for gradient, x in zip(found, arrays[:3], strict=True)
        )

    keys, values = _split(key), _split(value)
    given = (
        query,
        keys,
        values,
        cotangent.rearrange(result.axes),
        log_totals,
        mean.rearrange(log_totals.axes),
        _kept_whole(mask),
    )
    results = tuple(Result(x.axis_names) for x in (query, keys, values))
    by_query, by_key, by_value = by_device(of_device, given, (), results)
    by_key, by_value = (x.rename({POSITION: KEY_POSITION}) for x in (by_key, by_value))
    gradient = None if sinks is None else by_sinks(sinks, mean, log_totals)
    return (CallArrays(by_query, by_key, by_value, None, gradient),)


attend_in_ring.defvjp(_forward, _backward)


def _split(x: NamedArray) -> NamedArray:
    """Keys or values under the name of the queries' positions, which the mesh splits."""
    return x.rename({KEY_POSITION: POSITION})


def _kept_whole(mask: Mask | None) -> Any:
    def one(x: NamedArray) -> NamedArray:
        return x.rename({POSITION: _WHOLE}) if POSITION in x.axis_names else x

    return jax.tree.map(one, mask, is_leaf=is_named)


class _Ring:
    """One device of the ring.

    Its arrays have the axis ``position``, with the positions that it holds, for queries and keys alike.
    """

    def __init__(self, shard: Shard, form: AttentionShape, query: NamedArray, mask: Mask | None) -> None:
        part, first = shard.part(form.position)
        self._shard, self._whole = shard, form.position
        self._devices = form.position.size // part.size
        self._index = first // part.size
        self._order: RingOrder = ring_order(mask, form.position.size, self._devices, form.block)
        self._block, self._blocks = self._order.block, part.size // self._order.block
        self._form = dataclasses.replace(form, block=self._block)
        whole = form.position.alias(_WHOLE)
        self._pairs = BlockPairs(self._form, mask, query.axes, whole)
        self._firsts, self._begin, self._end = (
            jnp.asarray(x) for x in (self._order.firsts, self._order.begin, self._order.end)
        )
        self._bounds = None if mask is None else mask.block_ranges(whole, form.key_position, self._block)

    def forward(
        self, query: NamedArray, key: NamedArray, value: NamedArray, sinks: NamedArray | None
    ) -> tuple[NamedArray, NamedArray]:
        """The result, and the logarithm of each query's sum of exponentials, of the queries of this device."""
        queries = cut(query, self._blocks)

        def step(source: jax.Array, sums: Any, keys: tuple[NamedArray, NamedArray]) -> Any:
            def of_queries(given: tuple[jax.Array, NamedArray, Sums]) -> Sums:
                number, mine, sums = given

                def add(at: jax.Array, sums: Sums) -> Sums:
                    return self._pairs.add(sums, mine, *self._keys(keys, at), *self._at(number, source, at))

                return self._over_keys(number, source, add, sums)

            return jax.lax.map(of_queries, (jnp.arange(self._blocks), queries, sums))

        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (self._blocks, *x.shape)), self._pairs.start(sinks))
        sums, _ = self._around(step, start, (key, value))
        result, log_totals = jax.lax.map(lambda sums: self._pairs.finish(sums, query.dtype), sums)
        return joined(result), joined(log_totals)

    def backward(
        self,
        query: NamedArray,
        key: NamedArray,
        value: NamedArray,
        cotangent: NamedArray,
        log_totals: NamedArray,
        mean: NamedArray,
    ) -> tuple[NamedArray, NamedArray, NamedArray]:
        """The gradients with respect to query, key and value of this device."""
        log_totals, mean = (x.rearrange([axis.name for axis in self._pairs.rows]) for x in (log_totals, mean))
        queries = tuple(cut(x, self._blocks) for x in (query, cotangent, log_totals, mean))

        def step(source: jax.Array, by_query: NamedArray, travelling: tuple[NamedArray, ...]) -> Any:
            keys, by_keys = (travelling[0], travelling[1]), (travelling[2], travelling[3])

            def of_queries(
                by_keys: tuple[NamedArray, NamedArray], given: Any
            ) -> tuple[tuple[NamedArray, NamedArray], NamedArray]:
                number, (mine, my_cotangent, my_totals, my_mean), by_query = given

                def add(at: jax.Array, sums: Sums) -> Sums:
                    by_query, by_key, by_value = sums
                    parts = self._pairs.gradients(
                        mine, *self._keys(keys, at), my_cotangent, my_totals, my_mean, *self._at(number, source, at)
                    )
                    by_key, by_value = (
                        added(total, _split(part), POSITION, at * self._block)
                        for total, part in ((by_key, parts[1]), (by_value, parts[2]))
                    )
                    return by_query + parts[0], by_key, by_value

                by_query, by_key, by_value = self._over_keys(number, source, add, (by_query, *by_keys))
                return (by_key, by_value), by_query

            by_keys, by_query = jax.lax.scan(of_queries, by_keys, (jnp.arange(self._blocks), queries, by_query))
            return by_query, by_keys

        def wide(x: NamedArray) -> NamedArray:
            return with_array(x, jnp.zeros(x.array.shape, jnp.float32))

        by_query, (by_key, by_value) = self._around(
            step, wide(cut(query, self._blocks)), (key, value), (wide(key), wide(value))
        )
        return joined(by_query).astype(query.dtype), by_key.astype(key.dtype), by_value.astype(value.dtype)

    def _around(
        self,
        step: Callable[..., Any],
        kept: Any,
        keys: tuple[NamedArray, NamedArray],
        sums: tuple[NamedArray, ...] = (),
    ) -> Any:
        """Compute all steps.

        Args:
            step: ``(source, kept, keys + sums) -> kept``, or ``(kept, sums)`` if there are sums.
            kept: What stays on the device.
            keys: What every device reads, one device later at each step.
            sums: What every device adds to, one device later at each step. It comes home after the last one.
        """
        onward = [(device + 1) % self._devices for device in range(self._devices)]

        def compute(number: Any, kept: Any, keys: Any, sums: Any) -> tuple[Any, Any]:
            source = (self._index - number) % self._devices
            return step(source, kept, (*keys, *sums)) if sums else (step(source, kept, keys), ())

        def one(number: Any, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            kept, keys, sums = carry
            coming = self._sent(keys, onward)  # before the computation, so that the two overlap
            kept, sums = compute(number, kept, keys, sums)
            return kept, coming, self._sent(sums, onward)

        last, carry = self._order.steps - 1, (kept, keys, sums)
        if unroll(last):
            for number in range(last):
                carry = one(number, carry)
        elif last:
            carry = jax.lax.fori_loop(0, last, one, carry)
        kept, sums = compute(last, *carry)
        home = [(device - last) % self._devices for device in range(self._devices)]
        return kept, self._sent(sums, home) if last else sums

    def _over_keys(
        self, number: jax.Array, source: jax.Array, add: Callable[[jax.Array, Sums], Sums], sums: Sums
    ) -> Sums:
        """Add the visible blocks of keys from a device to the sums of a block of queries."""
        begin, end = self._begin[self._index, source, number], self._end[self._index, source, number]
        runs = self._order.begin.shape[-1]
        if self._bounds is not None:
            # A run holds consecutive blocks: from their number in the sequence to that on the device is one difference
            # for each run.
            starts = jnp.arange(runs) * (self._blocks // runs)
            earlier = self._firsts[source, starts] // self._block - starts
            at = self._firsts[self._index, number] // self._block
            begin, end = (
                jnp.maximum(begin, self._bounds.first[at] - earlier),
                jnp.minimum(end, self._bounds.end[at] - earlier),
            )
        for run in range(runs):
            sums = jax.lax.fori_loop(begin[run], end[run], add, sums)
        return sums

    def _at(self, number: jax.Array, source: jax.Array, at: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions of the first query of a block, and of the first key of a block from a device."""
        return self._firsts[self._index, number], self._firsts[source, at]

    def _keys(self, keys: tuple[NamedArray, NamedArray], at: jax.Array) -> tuple[NamedArray, NamedArray]:
        """A block of keys and of their values."""

        def block(x: NamedArray) -> NamedArray:
            part = jax.lax.dynamic_slice_in_dim(x.array, at * self._block, self._block, x.axis_names.index(POSITION))
            return with_array(x, part).rename({POSITION: KEY_POSITION})

        return block(keys[0]), block(keys[1])

    def arranged(self, x: NamedArray) -> NamedArray:
        """An array whose positions are in natural order, in the order of the ring."""
        if not self._order.zigzag:
            return x
        even, odd = jnp.split(x.array, 2, x.axis_names.index(POSITION))
        to = zigzag_device(self._devices)
        even, odd = self._sent(even, to[0::2]), self._sent(odd, to[1::2])
        return self._put_together(x, jnp.where(self._is_even, even, odd), jnp.where(self._is_even, odd, even))

    def restored(self, x: NamedArray) -> NamedArray:
        """The inverse of `arranged`."""
        if not self._order.zigzag:
            return x
        low, high = jnp.split(x.array, 2, x.axis_names.index(POSITION))
        to = zigzag_device(self._devices)
        even = self._sent(jnp.where(self._is_even, low, high), np.argsort(to[0::2]))
        odd = self._sent(jnp.where(self._is_even, high, low), np.argsort(to[1::2]))
        return self._put_together(x, even, odd)

    @property
    def _is_even(self) -> jax.Array:
        """Whether the lower run of this device, which has the device's index, has an even one; its other run then has
        an odd one.
        """
        return jnp.asarray(self._index % 2 == 0)

    def _put_together(self, x: NamedArray, low: jax.Array, high: jax.Array) -> NamedArray:
        return with_array(x, jnp.concatenate((low, high), x.axis_names.index(POSITION)))

    def _sent(self, tree: Any, to: Any) -> Any:
        return jax.tree.map(lambda x: self._shard.sent(self._whole, x, list(map(int, to))), tree)


def zigzag_device(devices: int) -> np.ndarray:
    """The device that holds each run in the order ``zigzag``: [2 * devices].

    Runs of even index go to different devices, odd ones too.
    """
    return np.argsort(zigzag_runs(devices).ravel()) // 2
