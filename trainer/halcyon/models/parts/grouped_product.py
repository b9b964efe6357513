"""Products of rows with one matrix for each group of rows.

All uses of a platform's kernel for such products belong here. Rows are sorted by group; the rows after the last group belong to none, and
their products are zero.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

_BY_MATRIX = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (1,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[0]
)
_BY_TRANSPOSED = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (2,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[0]
)
_OUTER = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[]
)


def grouped_product(rows: jax.Array, matrices: jax.Array, sizes: jax.Array, *, transposed: bool = False) -> jax.Array:
    """The product of each row with the matrix of its group: [row, output], in the type of `rows`; sums are float32.

    Args:
        rows: [row, input], sorted by group.
        matrices: [group, input, output]; [group, output, input] if `transposed`. Cast to the type of `rows`.
        sizes: int32 [group]: the number of rows of each group.
        transposed: Whether to use the transposed matrices.
    """
    return _ragged(rows, matrices.astype(rows.dtype), sizes, _BY_TRANSPOSED if transposed else _BY_MATRIX, rows.dtype)


def grouped_outer(rows: jax.Array, others: jax.Array, sizes: jax.Array) -> jax.Array:
    """The sum of the outer products of the rows of each group: float32 [group, input, output].

    Args:
        rows: [row, input], sorted by group.
        others: [row, output], in the same order.
        sizes: int32 [group]: the number of rows of each group.
    """
    return _ragged(rows, others.astype(rows.dtype), sizes, _OUTER, jnp.dtype(jnp.float32))


def grouped_sum(rows: jax.Array, sizes: jax.Array) -> jax.Array:
    """The sum of the rows of each group: float32 [group, input]."""
    return grouped_outer(jnp.ones((rows.shape[0], 1), rows.dtype), rows, sizes)[:, 0]


def _ragged(
    x: jax.Array, y: jax.Array, sizes: jax.Array, dimensions: jax.lax.RaggedDotDimensionNumbers, into: jnp.dtype
) -> jax.Array:
    if jax.default_backend() == "cpu":  # on CPU, XLA has no product of narrow types with a wide result
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    product = functools.partial(jax.lax.ragged_dot_general, ragged_dot_dimension_numbers=dimensions, precision=precision)
    return product(x, y, sizes, preferred_element_type=jnp.float32).astype(into)
