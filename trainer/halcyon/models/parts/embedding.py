"""Tables of vectors, with a gradient that is accurate for frequent tokens too.

The gradient of a table is a sum over all positions of the batch, and a frequent token has many of them. The table is
cast to the compute type before the look-up; in bfloat16 the error of that sum would be half of its norm or more. So the
sum is float32 in every compute type (`halcyon.models.parts.grouped_product.sums_at`).

If a mesh splits the batch, each device adds up the vectors of its own positions into a table of its own. One reduction
then gives each device the sum for the part of the table that it stores.

nanochat has two more parts. A value embedding is a table of vectors that a block adds to the values of its attention,
each head as much as its gate says. It comes from the value residuals of ResFormer (Zhou et al. 2024, `arXiv 2410.17897
<https://arxiv.org/abs/2410.17897>`_); here every such block has a table of its own, in the place of the values of the
first block. A smear gives each embedding a part of the embedding before it, so that the first block sees pairs of
tokens.
"""

from __future__ import annotations

import functools

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models.axes import EMBED, POSITION, SMEARED, VALUE_GATE, elementwise, later, recomputed, with_array
from halcyon.models.cache import Memory
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import Result, Shard, by_device, divided
from halcyon.models.parts.grouped_product import sums_at
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.weight import normal

GREATEST = 3.0
"""The greatest factor of a value embedding; a gate of 0 gives half of it."""


class Embedding(eqx.Module):
    """A vector for every index."""

    indexed: Axis = eqx.field(static=True)
    weight: NamedArray = parameter(Role.EMBEDDING, inputs="indexed")

    @staticmethod
    def init(indexed: Axis, embed: Axis, *, std: float, dtype: jnp.dtype, key: PRNGKeyArray) -> Embedding:
        """A normally distributed table: (indexed, embed)."""
        return Embedding(indexed, normal(key, (indexed,), (embed,), std=std, dtype=dtype))

    def __call__(self, indices: NamedArray, dtype: jnp.dtype) -> NamedArray:
        """The vectors of `indices`, in `dtype`."""
        # A table by position has all positions: a mesh that splits the positions of activations must not split it.
        indexed = self.indexed.alias(f"table_{self.indexed.name}") if self.indexed.name == POSITION else self.indexed
        return divided(look_up(self.weight.rename({self.indexed: indexed}), indices, indexed, dtype))

    def of_positions(self, position: Axis, positions: NamedArray | None, dtype: jnp.dtype) -> NamedArray:
        """The vectors of `positions`, of a table by position. None: of the first ones, along the axis `position`."""
        return self.weight.slice(self.indexed, position) if positions is None else self(positions, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
@jax.named_scope("embedding")
def look_up(table: NamedArray, indices: NamedArray, indexed: Axis, dtype: jnp.dtype) -> NamedArray:
    """The vectors of `indices`, in `dtype`.

    Args:
        table: (indexed, embed).
        indices: (..., position) integers.
        indexed: The axis of the table that `indices` count along.
        dtype: Type of the vectors.
    """
    # Gather the table before the look-up: otherwise XLA shards the vectors by feature, and copies the whole batch to
    # every device.
    return hax.auto_sharded(table.astype(dtype)).take(indexed, indices)


@jax.named_scope("embedding")
def _backward(
    indexed: Axis, dtype: jnp.dtype, arguments: tuple[NamedArray, NamedArray], cotangent: NamedArray
) -> tuple[NamedArray, None]:
    del dtype
    table, indices = arguments
    features = tuple(axis for axis in table.axes if axis != indexed)
    ordered = table.rearrange((indexed, *features))
    vectors = cotangent.rearrange((*indices.axes, *features))

    def of_device(shard: Shard, arguments: tuple[NamedArray, NamedArray], parameters: tuple[()]) -> NamedArray:
        del parameters
        indices, vectors = (x.array for x in arguments)
        part, first = shard.part(indexed)
        width = vectors.shape[indices.ndim :]
        # Indices outside of this device's part of the table are left out.
        total = sums_at(vectors.reshape(indices.size, -1), indices.reshape(-1) - first, part.size)
        return shard.reduced(NamedArray(total.reshape(part.size, *width), ordered.axis_names))

    total = by_device(of_device, (indices, vectors), (), Result(ordered.axis_names, parameter=True))
    return total.rearrange(table.axes).astype(table.dtype), None


look_up.defvjp(lambda *given: (look_up(*given), given[:2]), _backward)


class ValueEmbedding(eqx.Module):
    """``3 sigmoid(gate . x[:channels])`` for each head of values, times the vector of the token.

    Attributes:
        table: A vector for each token. Its features are those of all heads, under the name ``embed``, so that a mesh
            splits the table as it splits the token embedding.
        gate: From the first features of the residual stream to the heads of values.
        head_size: Features of a head.
    """

    table: Embedding
    gate: Linear
    head_size: Axis = eqx.field(static=True)

    def __call__(self, tokens: NamedArray, x: NamedArray) -> NamedArray:
        """What to add to the values: (..., position, kv_heads, head_size), in the type of `x`.

        Args:
            tokens: (..., position) integers.
            x: (..., position, embed): the residual stream, after its norm.
        """
        (channels,) = self.gate.inputs
        gate = self.gate(x.slice(EMBED, channels))
        (heads,) = (axis for axis in self.gate.weight.axes if axis.name != VALUE_GATE)
        vectors = divided(self.table(tokens, x.dtype).unflatten_axis(EMBED, (heads, self.head_size)))
        return elementwise(recomputed(lambda vectors, gate: GREATEST * jax.nn.sigmoid(gate) * vectors), vectors, gate)


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
    return hax.where(segments == _moved(segments, -1), moved, 0.0).rearrange(x.axes)


def _moved(x: NamedArray, first: float) -> NamedArray:
    """`x` moved by one position."""
    return with_array(x, later(x.array, 1, x.axis_names.index(POSITION), first))


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
