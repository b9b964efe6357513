"""Products of rows with one matrix for each group of rows.

All uses of a platform's kernel for such products belong here. Rows are sorted by group; the rows after the last group belong to none, and
their products are zero. Two implementations compute the same sums:

- ``ragged`` is XLA's own operation (`jax.lax.ragged_dot_general`), a kernel on TPUs. On other platforms XLA multiplies every row with every
  matrix and keeps a copy of the rows for each group.
- ``blocks`` cuts the rows of each group into blocks and multiplies one block at a time, on any platform. A group fills its last block with
  zeros, so it computes less than one block more for each group.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Implementation = Literal["ragged", "blocks"]

BLOCK = 128
"""Rows of the largest block."""
_LEAST_BLOCK = 8

_BY_MATRIX = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (1,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[0]
)
_BY_TRANSPOSED = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((1,), (2,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[0]
)
_OUTER = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[]
)


def grouped_product(
    rows: jax.Array, matrices: jax.Array, sizes: jax.Array, *, transposed: bool = False, implementation: Implementation | None = None
) -> jax.Array:
    """The product of each row with the matrix of its group: [row, output], in the type of `rows`; sums are float32.

    Args:
        rows: [row, input], sorted by group.
        matrices: [group, input, output]; [group, output, input] if `transposed`. Cast to the type of `rows`.
        sizes: int32 [group]: the number of rows of each group.
        transposed: Whether to use the transposed matrices.
        implementation: Default: ``ragged`` on TPUs, else ``blocks``.
    """
    matrices = matrices.astype(rows.dtype)
    if _chosen(implementation) == "ragged":
        return _ragged(rows, matrices, sizes, _BY_TRANSPOSED if transposed else _BY_MATRIX).astype(rows.dtype)
    blocks = _blocks(len(rows), sizes)

    def one(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        mine, group = block
        matrix = jax.lax.dynamic_index_in_dim(matrices, group, keepdims=False)
        return _product(mine, matrix, (1,), (1,) if transposed else (0,)).astype(rows.dtype)

    products = jax.lax.map(one, (_at(rows, blocks.rows), blocks.groups))
    return _at(products.reshape(-1, products.shape[-1]), blocks.places)


def grouped_outer(rows: jax.Array, others: jax.Array, sizes: jax.Array, *, implementation: Implementation | None = None) -> jax.Array:
    """The sum of the outer products of the rows of each group: float32 [group, input, output].

    Args:
        rows: [row, input], sorted by group.
        others: [row, output], in the same order.
        sizes: int32 [group]: the number of rows of each group.
        implementation: Default: ``ragged`` on TPUs, else ``blocks``.
    """
    others = others.astype(rows.dtype)
    if _chosen(implementation) == "ragged":
        return _ragged(rows, others, sizes, _OUTER)
    blocks = _blocks(len(rows), sizes)

    def add(total: jax.Array, block: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        left, right, group = block
        before = jax.lax.dynamic_index_in_dim(total, group, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(total, before + _product(left, right, (0,), (0,)), group, 0), None

    zero = jnp.zeros((len(sizes), rows.shape[1], others.shape[1]), jnp.float32)
    return jax.lax.scan(add, zero, (_at(rows, blocks.rows), _at(others, blocks.rows), blocks.groups))[0]


def grouped_sum(rows: jax.Array, sizes: jax.Array) -> jax.Array:
    """The sum of the rows of each group: float32 [group, input]."""
    return grouped_outer(jnp.ones((len(rows), 1), rows.dtype), rows, sizes)[:, 0]


class _Blocks(NamedTuple):
    """The rows in blocks, each of one group."""

    rows: jax.Array
    """[block, row of the block]: index of the row; the number of rows for an empty place."""
    groups: jax.Array
    """[block]: the group; the last one for a block without rows."""
    places: jax.Array
    """[row]: block x rows of a block + row of the block; the number of places for a row without a group."""


def _blocks(count: int, sizes: jax.Array) -> _Blocks:
    groups = len(sizes)
    block = min(BLOCK, max(_LEAST_BLOCK, 1 << (count // groups).bit_length() - 1 if count >= groups else _LEAST_BLOCK))
    blocks = count // block + groups  # at least the sum of all groups' blocks
    ends, block_ends = jnp.cumsum(sizes), jnp.cumsum(-(-sizes // block))
    begins, block_begins = ends - sizes, block_ends - -(-sizes // block)
    group = jnp.minimum(jnp.searchsorted(block_ends, jnp.arange(blocks), side="right"), groups - 1)
    rows = (begins[group] + (jnp.arange(blocks) - block_begins[group]) * block)[:, None] + jnp.arange(block)
    of_row = jnp.searchsorted(ends, jnp.arange(count), side="right")
    mine = jnp.minimum(of_row, groups - 1)
    places = block_begins[mine] * block + jnp.arange(count) - begins[mine]
    return _Blocks(
        jnp.where(rows < ends[group][:, None], rows, count), group.astype(jnp.int32), jnp.where(of_row < groups, places, blocks * block)
    )


def _chosen(implementation: Implementation | None) -> Implementation:
    return implementation or ("ragged" if jax.default_backend() == "tpu" else "blocks")


def _at(rows: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.take(rows, places, axis=0, mode="fill", fill_value=0)


def _product(x: jax.Array, y: jax.Array, over_x: tuple[int, ...], over_y: tuple[int, ...]) -> jax.Array:
    x, y, precision = _operands(x, y)
    return jax.lax.dot_general(x, y, ((over_x, over_y), ((), ())), precision=precision, preferred_element_type=jnp.float32)


def _ragged(x: jax.Array, y: jax.Array, sizes: jax.Array, dimensions: jax.lax.RaggedDotDimensionNumbers) -> jax.Array:
    x, y, precision = _operands(x, y)
    return jax.lax.ragged_dot_general(x, y, sizes, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _operands(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.lax.Precision | None]:
    """The factors, and the precision of their product; see `halcyon.models.parts.linear.contract`."""
    if jax.default_backend() == "cpu":  # on CPU, XLA has no product of narrow types with a wide result
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return x, y, jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
