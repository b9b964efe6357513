"""Smear: each embedding gets a part of the embedding before it, so that the first block sees pairs of tokens."""

from __future__ import annotations

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.axes import EMBED, POSITION, SMEARED
from halcyon.models.cache import Memory
from halcyon.models.elementwise import elementwise, recomputed, with_array
from halcyon.models.parameters import Role, parameter
from halcyon.models.parts.linear import Linear


class Smear(eqx.Module):
    """``x_t + factor sigmoid(gate . x_t[:channels]) x_(t - 1)``; nothing is added at the first position of a segment.

    Attributes:
        gate: From the first features of an embedding to one number.
        factor: A number; 0 at the start of a training.
    """

    gate: Linear
    factor: NamedArray = parameter(Role.BIAS)

    def __call__(self, x: NamedArray, segments: NamedArray | None = None, memory: Memory | None = None) -> NamedArray:
        """(..., position, embed) to the same axes.

        Args:
            x: The embeddings.
            segments: (..., position) integers. None: one segment.
            memory: The last embedding of each row, which this replaces. None: nothing is before the first position.
        """
        (channels,) = self.gate.inputs
        gate = self.gate(x.slice(EMBED, channels))[SMEARED, 0]
        before = _before(x, segments) if memory is None else _remembered(x, memory)

        def add(x: jax.Array, before: jax.Array, gate: jax.Array, factor: jax.Array) -> jax.Array:
            share = factor.astype(jnp.float32) * jax.nn.sigmoid(gate.astype(jnp.float32))
            return (x.astype(jnp.float32) + share * before.astype(jnp.float32)).astype(x.dtype)

        return elementwise(recomputed(add), x, before, gate, self.factor)


def _before(x: NamedArray, segments: NamedArray | None) -> NamedArray:
    """The embedding before each one; 0 at the beginning of a segment."""
    moved = _moved(x, 0.0)
    if segments is None:
        return moved
    return hax.where(hax.equal(segments, _moved(segments, -1)), moved, 0.0).rearrange(x.axes)


def _moved(x: NamedArray, first: float) -> NamedArray:
    """`x` moved by one position."""
    at = x.axis_names.index(POSITION)
    padding = [(1 if axis == at else 0, 0) for axis in range(x.array.ndim)]
    return with_array(
        x, jax.lax.slice_in_dim(jnp.pad(x.array, padding, constant_values=first), 0, x.array.shape[at], axis=at)
    )


def _remembered(x: NamedArray, memory: Memory) -> NamedArray:
    """The embedding before each one, of which the first lies in the memory.

    The memory gets the last one that counts.
    """
    ordered = x.rearrange((..., POSITION, EMBED))
    (kept,) = memory.fixed
    known = jnp.concatenate((kept.astype(x.dtype)[:, None], ordered.array), 1)
    counts = memory.counts(ordered.array.shape[1])
    memory.replace([jnp.take_along_axis(known, counts[:, None, None], 1)[:, 0]])
    return with_array(ordered, known[:, :-1]).rearrange(x.axes)
