"""Rotary position embedding (Su et al. 2021): queries and keys are rotated by an angle proportional to their position.

Feature ``i`` of the first half of a head is paired with feature ``i`` of the second half, as in the published Llama weights of Hugging
Face. Pair ``i`` of ``n`` rotates by ``theta ** (-i / n)`` per position. The angles are float32 whatever the compute type.
"""

from __future__ import annotations

from typing import NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.elementwise import elementwise


class RotaryTable(NamedTuple):
    """Cosines and sines by position, each of shape (..., position, head_size), float32."""

    cosine: NamedArray
    sine: NamedArray
    """With the sign of the rotation: negative for the first half of the features."""


def rotary_table(position: Axis, head_size: Axis, theta: float, positions: NamedArray | None = None) -> RotaryTable:
    """The angles of positions.

    Args:
        position: The axis of positions.
        head_size: Features of a head.
        theta: Base of the frequencies.
        positions: (..., position) integers. None: counted from 0.
    """
    pairs = head_size.size // 2
    frequencies = theta ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs)
    numbers = jnp.arange(position.size, dtype=jnp.float32) if positions is None else positions.array.astype(jnp.float32)
    angles = numbers[..., None] * frequencies
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    axes = (position, head_size) if positions is None else (*positions.axes, head_size)
    return RotaryTable(
        hax.named(jnp.concatenate((cosine, cosine), axis=-1), axes), hax.named(jnp.concatenate((-sine, sine), axis=-1), axes)
    )


def rotate(x: NamedArray, table: RotaryTable, head_size: Axis) -> NamedArray:
    """`x` rotated by the angles of its positions, in the type of `x`; the arithmetic is float32."""
    feature = x.axis_names.index(head_size.name)

    def turn(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        return (wide * cosine + jnp.roll(wide, head_size.size // 2, feature) * sine).astype(x.dtype)

    return elementwise(turn, x, *table)
