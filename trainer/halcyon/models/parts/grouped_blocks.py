"""Products of groups in blocks of rows, one after the other, on any platform.

The rows of each group are cut into blocks, and a loop multiplies one block at a time. A group fills its last block with
zeros, so it computes less than one block more for each group.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

BLOCK = 128
"""Rows of the largest block."""
_LEAST_BLOCK = 8


def product_in_blocks(
    rows: jax.Array, matrices: jax.Array, sizes: jax.Array, *, transposed: bool, into: Any
) -> jax.Array:
    """The product of each row with the matrix of its group; see
    `halcyon.models.parts.grouped_product.grouped_product`.
    """
    blocks = _blocks(len(rows), sizes)

    def one(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        mine, group = block
        matrix = jax.lax.dynamic_index_in_dim(matrices, group, keepdims=False)
        return _product(mine, matrix, (1,), (1,) if transposed else (0,)).astype(into)

    products = jax.lax.map(one, (_at(rows, blocks.rows), blocks.groups))
    return _at(products.reshape(-1, products.shape[-1]), blocks.places)


def outer_in_blocks(rows: jax.Array, others: jax.Array, sizes: jax.Array) -> jax.Array:
    """The sums of outer products of each group; see `halcyon.models.parts.grouped_product.grouped_outer`."""
    blocks = _blocks(len(rows), sizes)

    def add(total: jax.Array, block: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        left, right, group = block
        before = jax.lax.dynamic_index_in_dim(total, group, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(total, before + _product(left, right, (0,), (0,)), group, 0), None

    zero = jnp.zeros((len(sizes), rows.shape[1], others.shape[1]), jnp.float32)
    return jax.lax.scan(add, zero, (_at(rows, blocks.rows), _at(others, blocks.rows), blocks.groups))[0]


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
        jnp.where(rows < ends[group][:, None], rows, count),
        group.astype(jnp.int32),
        jnp.where(of_row < groups, places, blocks * block),
    )


def _at(rows: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.take(rows, places, axis=0, mode="fill", fill_value=0)


def _product(x: jax.Array, y: jax.Array, over_x: tuple[int, ...], over_y: tuple[int, ...]) -> jax.Array:
    x, y, precision = operands(x, y)
    return jax.lax.dot_general(
        x, y, ((over_x, over_y), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def operands(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.lax.Precision | None]:
    """The factors, and the precision of their product; see `halcyon.models.parts.linear.contract`."""
    if jax.default_backend() == "cpu":  # on CPU, XLA has no product of narrow types with a wide result
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return x, y, jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
