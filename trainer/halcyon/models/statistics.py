"""Sums over an array, from which its norm, its RMS and the histogram of its magnitudes follow. The sums of parts add up."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import is_named

HISTOGRAM_EDGES = tuple(4.0**exponent for exponent in range(-16, 3))
"""Lower edges of the bins of magnitudes but the first, which begins at 0."""
STATISTICS = "statistics"
"""The axis of what `sums_of` returns."""
_SIZE, _SQUARES, _REACHED = 0, 1, 2


def statistics_axis(*, histograms: bool) -> Axis:
    """The axis of `sums_of`, with or without the counts for histograms."""
    return Axis(STATISTICS, _REACHED + (1 + len(HISTOGRAM_EDGES) if histograms else 0))


def sums_of(values: jax.Array, count: int) -> jax.Array:
    """The number of elements, the sum of squares, and for each lower edge of a bin the number of magnitudes that reach it.

    Args:
        values: Any shape.
        count: Size of `statistics_axis`.

    Returns:
        Float32 [statistics].
    """
    values = values.astype(jnp.float32)
    found = [jnp.float32(values.size), jnp.sum(jnp.square(values))]
    if count > _REACHED:
        found += [reached.astype(jnp.float32) for reached in counts_reaching(values)]
    return jnp.stack(found)


def counts_reaching(values: jax.Array, axes: tuple[int, ...] | None = None) -> list[jax.Array]:
    """For each lower edge of a bin, the number of magnitudes that reach it: uint32.

    Comparisons, because a scatter into bins would be slow on an accelerator. Sums of integers, because a processor adds them several times
    as fast, and a float32 stops to count at 2^24.

    Args:
        values: Any shape.
        axes: The axes to count over. None: all.
    """
    size = jnp.abs(values)
    return [jnp.sum(size >= edge, axes, dtype=jnp.uint32) for edge in (0.0, *HISTOGRAM_EDGES)]


def statistics_of(sums: jax.Array) -> dict[str, jax.Array]:
    """``norm``, ``rms`` and perhaps ``histogram`` of `sums_of`.

    Args:
        sums: Float32 [..., statistics].

    Returns:
        Norm and RMS of the shape [...]; histograms [..., bins].
    """
    size, squares = jnp.maximum(sums[..., _SIZE], 1.0), sums[..., _SQUARES]
    found = {"norm": jnp.sqrt(squares), "rms": jnp.sqrt(squares / size)}
    if sums.shape[-1] > _REACHED:
        found["histogram"] = shares([sums[..., number] / size for number in range(_REACHED, sums.shape[-1])])
    return found


def shares(reached: Sequence[jax.Array]) -> jax.Array:
    """The share of elements in each bin: [..., bins].

    Args:
        reached: For each bin, the share of elements that reach its lower edge: [...].
    """
    return jnp.stack([*(low - high for low, high in itertools.pairwise(reached)), reached[-1]], axis=-1)


def tapped(carry: Any, slot: NamedArray | None) -> Any:
    """`carry`, whose first named array gives its `sums_of` as the gradient of the slot (see `halcyon.models.activations`).

    Args:
        carry: A tree of named arrays, such as the residual stream.
        slot: (statistics); None: nothing is computed.
    """
    if slot is None:
        return carry
    leaves, structure = jax.tree.flatten(carry, is_leaf=is_named)
    first = next(number for number, leaf in enumerate(leaves) if is_named(leaf))
    leaves[first] = NamedArray(_tap(leaves[first].array, slot.array), leaves[first].axis_names)
    return jax.tree.unflatten(structure, leaves)


@jax.custom_vjp
def _tap(values: jax.Array, slot: jax.Array) -> jax.Array:
    del slot
    return values


def _forward(values: jax.Array, slot: jax.Array) -> tuple[jax.Array, jax.Array]:
    return values, sums_of(jax.lax.stop_gradient(values), slot.size)


def _backward(sums: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, sums


_tap.defvjp(_forward, _backward)
