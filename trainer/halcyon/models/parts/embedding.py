"""Tables of vectors, with a gradient that is accurate for frequent tokens too.

The gradient of a table is a sum over all positions of the batch, and a frequent token has many of them. The table is
cast to the compute type before the look-up; in bfloat16 the error of that sum would be half of its norm or more. So the
sum is float32 in every compute type.

If a mesh splits the batch, each device adds up the vectors of its own positions into a table of its own. One reduction
then gives each device the sum for the part of the table that it stores.
"""

from __future__ import annotations

import functools

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models.axes import POSITION
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import Result, Shard, by_device, divided
from halcyon.models.parts.linear import normal


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
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


def _forward(
    table: NamedArray, indices: NamedArray, indexed: Axis, dtype: jnp.dtype
) -> tuple[NamedArray, tuple[NamedArray, NamedArray]]:
    return look_up(table, indices, indexed, dtype), (table, indices)


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
        at = indices.reshape(-1) - first
        at = jnp.where(
            at < 0, part.size, at
        )  # drop indices outside of this part: a negative one would count from the end
        rows = vectors.astype(jnp.float32).reshape(-1, *width)
        total = jnp.zeros((part.size, *width), jnp.float32).at[at].add(rows, mode="drop")
        return shard.reduced(NamedArray(total, ordered.axis_names))

    total = by_device(of_device, (indices, vectors), (), Result(ordered.axis_names, parameter=True))
    return total.rearrange(table.axes).astype(table.dtype), None


look_up.defvjp(_forward, _backward)
