"""What the kernels of attention's backward pass on GPUs share: their inputs, and operands in shared memory."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

LOG2_E = math.log2(math.e)
SHARED_BYTES = 227 * 1024
"""Shared memory of a block, compute capability 9 and 10 (CUDA C++ programming guide)."""
_TRANSFORMS: Any = (plgpu.TilingTransform, plgpu.SwizzleTransform)  # JAX's types call them abstract
OPERAND = (_TRANSFORMS[0]((8, 64)), _TRANSFORMS[1](128))
"""Rows of 128 bytes, as tensor cores read factors of 16 bits."""


class Backward(NamedTuple):
    """What the backward pass is given. Features are a multiple of 64, positions one of 128."""

    query: jax.Array
    """Already scaled: [rows, positions, heads, features], of 16 bits."""
    key: jax.Array
    """[rows, positions, heads of keys, features]."""
    value: jax.Array
    """[rows, positions, heads of keys, features of a value]."""
    cotangent: jax.Array
    """Gradient of the result: [rows, positions, heads, features of a value]."""
    log_totals: jax.Array
    """Logarithm of each query's sum of exponentials: float32 [rows, heads, positions]."""
    means: jax.Array
    """Mean of each query's gradients by weight, that is the sum of result x cotangent: float32 [rows, heads,
    positions].
    """
    first: jax.Array
    """First key of each query; never decreases along a row: int32 [rows, positions]."""

    @property
    def sharing(self) -> int:
        """Heads of queries that share a head of keys."""
        return self.query.shape[2] // self.key.shape[2]

    @property
    def position_bytes(self) -> int:
        """Bytes of one position of a key and its value, or of a query and its cotangent."""
        return (self.query.shape[3] + self.value.shape[3]) * self.query.dtype.itemsize

    @property
    def sizes(self) -> tuple[int, int]:
        """Features of a key and of a value."""
        return self.key.shape[3], self.value.shape[3]


def operand(shape: tuple[int, ...], dtype: Any) -> Any:
    """An operand of tensor cores in shared memory; `shape` ends with positions and features."""
    return plgpu.SMEM(shape, dtype, transforms=OPERAND)


def like(*arrays: jax.Array) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Outputs with the shapes and types of arrays."""
    return tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays)


def along(x: jax.Array, axis: int, like: jax.Array) -> jax.Array:
    """One number for each index of an axis of `like`, with its shape."""
    return jax.lax.broadcast_in_dim(x, like.shape, (axis,))


def weights(
    score: jax.Array,
    log_total: jax.Array,
    *,
    keys: int,
    key: jax.Array,
    query: jax.Array,
    latest: jax.Array,
    first: Callable[[], jax.Array],
    layout: Any,
) -> jax.Array:
    """The weight of each key for each query, 0 where the query does not see it: float32, like `score`.

    Args:
        score: Scores of a tile of queries and a tile of keys.
        log_total: log_totals x `LOG2_E`, of the axis of queries.
        keys: The axis of keys, 0 or 1.
        key: Position of the first key.
        query: Position of the first query.
        latest: The greatest first key of the queries. A tile whose pairs are all visible is not masked.
        first: Loads the first key of each query.
        layout: Of the arrays in registers.
    """
    weight = jnp.exp2(score * LOG2_E - along(log_total, 1 - keys, score))

    def masked() -> jax.Array:
        of_key, of_query = (
            begin + plgpu.broadcasted_iota(jnp.int32, score.shape, axis, layout=layout)
            for begin, axis in ((key, keys), (query, 1 - keys))
        )
        seen = (of_key <= of_query) & (of_key >= along(first(), 1 - keys, score))
        return jnp.where(seen, weight, 0.0)

    return jax.lax.cond((key + score.shape[keys] > query) | (key < latest), masked, lambda: weight)


def capped(score: jax.Array, soft_cap: float | None) -> tuple[jax.Array, jax.Array | float]:
    """The bounded score, soft_cap x tanh(score / soft_cap), and its derivative by the score. None: no bound."""
    if soft_cap is None:
        return score, 1.0
    share = jnp.tanh(score * (1 / soft_cap))
    return share * soft_cap, 1.0 - share * share
