"""Sums over an array, from which its norm, its RMS and the histogram of its magnitudes follow.

The sums of parts add up.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import BATCH, POSITION, expanded, is_named

_EXPONENTS = range(-16, 3)
HISTOGRAM_EDGES = tuple(4.0**exponent for exponent in _EXPONENTS)
"""Lower edges of the bins of magnitudes but the first, which begins at 0."""
STATISTICS = "statistics"
"""The axis of what `sums_of` returns."""
LARGEST_BLOCK = 255
"""Most elements that a byte can count."""
_BINS = 1 + len(HISTOGRAM_EDGES)
_WORDS = -(-_BINS // 4)
_SIZE, _SQUARES, _COUNTS = 0, 1, 2
_INFINITE = 0x7F800000
"""The bits of infinity in float32; those of magnitudes that are no number are greater."""
_OF_ONE = 64
"""The number that `_bins` finds in the bits of 1 = 4^0."""


def statistics_axis(*, histograms: bool) -> Axis:
    """The axis of `sums_of`, with or without the counts for histograms."""
    return Axis(STATISTICS, _COUNTS + (_BINS if histograms else 0))


def sums_of(values: jax.Array, count: int, counted: jax.Array | None) -> jax.Array:
    """The number of elements, the sum of squares, and the number of magnitudes in each bin.

    Args:
        values: Any shape.
        count: Size of `statistics_axis`.
        counted: Whether an element counts: bool, of the same number of dimensions, which may have size 1. None: all
            count.

    Returns:
        Float32 [statistics].
    """
    values = values.astype(jnp.float32)
    size = jnp.float32(values.size)
    if counted is not None:
        size = jnp.sum(counted, dtype=jnp.float32) * (values.size // counted.size)
        values = jnp.where(counted, values, 0.0)
    found = jnp.stack([size, jnp.sum(jnp.square(values))])
    if counted is not None:
        values = jnp.where(counted, values, jnp.nan)  # it is in no bin
    return found if count == _COUNTS else jnp.concatenate([found, bin_counts(values).astype(jnp.float32)])


def bin_counts(
    values: jax.Array, axes: tuple[int, ...] | None = None, block: tuple[int, int] | None = None
) -> jax.Array:
    """The number of magnitudes in each bin: uint32 [..., bins]. Elements that are not a number are in no bin.

    Each element adds 1 to one byte of one word; a word has the bytes of four bins. So five sums over blocks of few
    elements count all bins. Then the bytes of all blocks are added up. A comparison with each edge takes seven times as
    long on a processor, and a scatter into bins is slow on an accelerator. The sums are of integers, because a float32
    stops to count at 2^24.

    Args:
        values: Float32, any shape.
        axes: The axes to count over. None: all.
        block: One of these axes, and the number of neighbours on it that form a block (`block_of`). Where devices share
            the axis, each must hold whole blocks; otherwise elements would travel. Default: blocks of the last axis.
    """
    axes = tuple(range(values.ndim)) if axes is None else axes
    if not axes:
        values, axes = values[..., None], (values.ndim,)
    axis, size = block or (axes[-1], block_of(values.shape[axes[-1]]))
    bins = _bins(values)
    lanes, words = jnp.uint32(1) << (8 * (bins & 3)), bins >> 2
    blocks = (*values.shape[:axis], values.shape[axis] // size, size, *values.shape[axis + 1 :])
    sums = [
        jnp.sum(jnp.where(words == word, lanes, jnp.uint32(0)).reshape(blocks), axis + 1, dtype=jnp.uint32)
        for word in range(_WORDS)
    ]
    counts = [
        jnp.sum((sums[number // 4] >> (8 * (number % 4))) & 0xFF, axes, dtype=jnp.uint32) for number in range(_BINS)
    ]
    return jnp.stack(counts, axis=-1)


def block_of(size: int) -> int:
    """The largest number of neighbours that divides an axis and that a byte can count."""
    return next(number for number in range(min(size, LARGEST_BLOCK), 0, -1) if size % number == 0)


def _bins(values: jax.Array) -> jax.Array:
    """The number of the bin of each magnitude: uint32. A greater number for an element that is not a number.

    The edges are powers of 4, so half of the exponent in the bits of a float32 decides.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32) & jnp.uint32(0x7FFFFFFF)
    below = jnp.uint32(_OF_ONE + _EXPONENTS[0] - 1)  # of magnitudes in the first bin
    found = jnp.clip((bits + jnp.uint32(1 << 23)) >> 24, below, below + _BINS - 1) - below
    return jnp.where(bits > _INFINITE, jnp.uint32(4 * _WORDS), found)


def statistics_of(sums: jax.Array) -> dict[str, jax.Array]:
    """``norm``, ``rms`` and perhaps ``histogram`` of `sums_of`.

    Args:
        sums: Float32 [..., statistics].

    Returns:
        Norm and RMS of the shape [...]; histograms [..., bins].
    """
    size, squares = jnp.maximum(sums[..., _SIZE], 1.0), sums[..., _SQUARES]
    found = {"norm": jnp.sqrt(squares), "rms": jnp.sqrt(squares / size)}
    if sums.shape[-1] > _COUNTS:
        found["histogram"] = sums[..., _COUNTS:] / size[..., None]
    return found


_weights: ContextVar[jax.Array | None] = ContextVar("halcyon-statistics-weights", default=None)


@contextlib.contextmanager
def counting(weights: jax.Array | None) -> Iterator[None]:
    """The context to trace a model in whose `tapped` statistics leave out the tokens without weight: [batch, position].

    None: none.
    """
    token = _weights.set(weights)
    try:
        yield
    finally:
        _weights.reset(token)


def tapped(carry: Any, slot: NamedArray | None) -> Any:
    """`carry`, whose first named array gives its `sums_of` as the gradient of the slot (see
    `halcyon.models.stack`).

    Args:
        carry: A tree of named arrays, such as the residual stream.
        slot: (statistics); None: nothing is computed.
    """
    if slot is None:
        return carry
    leaves, structure = jax.tree.flatten(carry, is_leaf=is_named)
    first = next(number for number, leaf in enumerate(leaves) if is_named(leaf))
    names, weights = leaves[first].axis_names, _weights.get()
    counted = None
    if weights is not None and {BATCH, POSITION} <= set(names):
        counted = expanded(NamedArray(weights > 0, (BATCH, POSITION)), names)
    leaves[first] = NamedArray(_tap(leaves[first].array, slot.array, counted), names)
    return jax.tree.unflatten(structure, leaves)


@jax.custom_vjp
def _tap(values: jax.Array, slot: jax.Array, counted: jax.Array | None) -> jax.Array:
    del slot, counted
    return values


_tap.defvjp(
    lambda values, slot, counted: (values, sums_of(jax.lax.stop_gradient(values), slot.size, counted)),
    lambda sums, gradient: (gradient, sums, None),
)
