"""Products of rows with one matrix for each group of rows, and the sums of rows that have one place.

All uses of a platform's kernel for such products are in this file and in `halcyon.models.parts.grouped_kernel`. Rows
are sorted by group; the rows after the last group belong to none, and their products are zero. Three implementations
compute the same sums:

- ``kernel``: one kernel for NVIDIA GPUs (`halcyon.models.parts.grouped_kernel`).
- ``ragged``: XLA's own operation (`jax.lax.ragged_dot_general`), a kernel on TPUs. On other platforms XLA multiplies
  every row with every matrix and keeps a copy of the rows for each group.
- ``blocks``: a loop over blocks of rows, on any platform. The rows of each group are cut into blocks. A group
  fills its last block with zeros, so it computes less than one block more for each group.

docs/design/experts.md says why.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from halcyon.models.parts.attention_choice import Target, present_target
from halcyon_api.hardware.gpu import ARCHITECTURES, architecture_of
from halcyon_api.hardware.kinds import Architecture

Implementation = Literal["kernel", "ragged", "blocks"]

BLOCK = 128
"""Rows of the largest block."""
_LEAST_BLOCK = 8
_PLACES = 64
"""Places whose sums are one group of the kernel. Few, because in a text some tokens are far more frequent."""
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
    rows: jax.Array,
    matrices: jax.Array,
    sizes: jax.Array,
    *,
    transposed: bool = False,
    into: DTypeLike | None = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    """The product of each row with the matrix of its group: [row, output]. Sums are float32, of int8 factors int32.

    Args:
        rows: [row, input], sorted by group.
        matrices: [group, input, output]; [group, output, input] if `transposed`. Cast to the type of `rows`.
        sizes: int32 [group]: the number of rows of each group.
        transposed: Whether to use the transposed matrices.
        into: Type of the result. Default: that of `rows`.
        implementation: Default: that of the platform, see the module.
    """
    matrices, into = matrices.astype(rows.dtype), rows.dtype if into is None else into
    target = present_target()
    match implementation or _best(target):
        case "kernel":
            from halcyon.models.parts import grouped_kernel  # Pallas takes half a second to import

            tile = _architecture(target).tile
            return grouped_kernel.row_products(
                rows, matrices, sizes, transposed=transposed, into=into, tile=tile, interpret=target.platform != "gpu"
            )
        case "ragged":
            found = _ragged(rows, matrices, sizes, _BY_TRANSPOSED if transposed else _BY_MATRIX, into).astype(into)
            # XLA's kernel for TPUs does not write the tiles of rows without a group.
            return jnp.where((jnp.arange(len(rows)) < jnp.sum(sizes))[:, None], found, jnp.zeros((), into))
        case "blocks":
            return product_in_blocks(rows, matrices, sizes, transposed=transposed, into=into)


def grouped_outer(
    rows: jax.Array, others: jax.Array, sizes: jax.Array, *, implementation: Implementation | None = None
) -> jax.Array:
    """The sum of the outer products of the rows of each group: float32 [group, input, output].

    Args:
        rows: [row, input], sorted by group.
        others: [row, output], in the same order.
        sizes: int32 [group]: the number of rows of each group.
        implementation: Default: that of the platform, see the module.
    """
    others, target = others.astype(rows.dtype), present_target()
    match implementation or _best(target):
        case "kernel":
            from halcyon.models.parts import grouped_kernel

            tile = grouped_kernel.outer_tile(_architecture(target), len(rows) // len(sizes))
            into = jnp.int32 if rows.dtype == jnp.int8 else jnp.float32
            found = grouped_kernel.outer_products(
                rows, others, sizes, into=into, tile=tile, interpret=target.platform != "gpu"
            )
            return found.astype(jnp.float32)
        case "ragged":
            return _ragged(rows, others, sizes, _OUTER, jnp.float32).astype(jnp.float32)
        case "blocks":
            return outer_in_blocks(rows, others, sizes)


def grouped_sum(rows: jax.Array, sizes: jax.Array) -> jax.Array:
    """The sum of the rows of each group: float32 [group, input]."""
    return grouped_outer(jnp.ones((len(rows), 1), rows.dtype), rows, sizes)[:, 0]


def sums_at(
    rows: jax.Array, places: jax.Array, count: int, *, implementation: Implementation | None = None
) -> jax.Array:
    """The sum of the rows of each place: float32 [place, feature].

    Args:
        rows: [row, feature].
        places: int32 [row], in any order. A row whose place is not one of 0 to `count` - 1 is left out.
        count: Number of places.
        implementation: Default: ``kernel`` where the platform has it; all else is a scatter.
    """
    if (implementation or _best(present_target())) != "kernel":
        places = jnp.where(places < 0, count, places)  # a negative place would count from the end
        return jnp.zeros((count, rows.shape[1]), jnp.float32).at[places].add(rows.astype(jnp.float32), mode="drop")
    # For a scatter whose bits repeat, XLA sorts the numbers of all rows: a tenth of a step on an H100. This sorts the
    # rows' places, and each group of places is a product with their marks.
    groups = -(-count // _PLACES)
    end = groups * _PLACES
    places = jnp.where((places < 0) | (places >= count), end, places)
    order = jnp.argsort(places)
    places, rows = places[order], rows[order]
    ends = jnp.searchsorted(places, jnp.arange(groups + 1) * _PLACES, method="compare_all")
    marks = (places % _PLACES)[:, None] == jnp.arange(_PLACES)
    sums = grouped_outer(marks.astype(rows.dtype), rows, jnp.diff(ends), implementation=implementation)
    return sums.reshape(end, -1)[:count]


def group_of_rows(sizes: jax.Array, count: int) -> jax.Array:
    """The group of each of `count` rows: int32 [row]; the number of groups for a row without one."""
    # A comparison of all pairs is one kernel; a binary search is a loop.
    return jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(count), side="right", method="compare_all")


def _best(target: Target) -> Implementation:
    if target.platform == "gpu" and architecture_of(target.compute_capability or (0, 0)):
        return "kernel"
    return "ragged" if target.platform == "tpu" else "blocks"


def _architecture(target: Target) -> Architecture:
    oldest = next(iter(ARCHITECTURES.values()))  # in the interpreter any will do
    return architecture_of(target.compute_capability or (0, 0)) or oldest


def _ragged(
    x: jax.Array, y: jax.Array, sizes: jax.Array, dimensions: jax.lax.RaggedDotDimensionNumbers, into: Any
) -> jax.Array:
    """The product with sums of 32 bits.

    XLA's kernel for TPUs has them for a narrower result, too; a float32 one costs a copy more.
    """
    x, y, precision = operands(x, y)
    if jax.default_backend() != "tpu" or x.dtype == jnp.int8:
        into = jnp.int32 if x.dtype == jnp.int8 else jnp.float32
    return jax.lax.ragged_dot_general(x, y, sizes, dimensions, precision=precision, preferred_element_type=into)


def product_in_blocks(
    rows: jax.Array, matrices: jax.Array, sizes: jax.Array, *, transposed: bool, into: Any
) -> jax.Array:
    """The product of each row with the matrix of its group; see `grouped_product`."""
    blocks = _blocks(len(rows), sizes)

    def one(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        mine, group = block
        matrix = jax.lax.dynamic_index_in_dim(matrices, group, keepdims=False)
        return _product(mine, matrix, (1,), (1,) if transposed else (0,)).astype(into)

    products = jax.lax.map(one, (rows_at(rows, blocks.rows), blocks.groups))
    return rows_at(products.reshape(-1, products.shape[-1]), blocks.places)


def outer_in_blocks(rows: jax.Array, others: jax.Array, sizes: jax.Array) -> jax.Array:
    """The sums of outer products of each group; see `grouped_outer`."""
    blocks = _blocks(len(rows), sizes)

    def add(total: jax.Array, block: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        left, right, group = block
        before = jax.lax.dynamic_index_in_dim(total, group, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(total, before + _product(left, right, (0,), (0,)), group, 0), None

    zero = jnp.zeros((len(sizes), rows.shape[1], others.shape[1]), jnp.float32)
    return jax.lax.scan(add, zero, (rows_at(rows, blocks.rows), rows_at(others, blocks.rows), blocks.groups))[0]


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


def rows_at(rows: jax.Array, places: jax.Array) -> jax.Array:
    """The rows at these places; zeros where a place is not an index of a row."""
    return jnp.take(rows, places, axis=0, mode="fill", fill_value=0)


def _product(x: jax.Array, y: jax.Array, over_x: tuple[int, ...], over_y: tuple[int, ...]) -> jax.Array:
    x, y, precision = operands(x, y)
    return jax.lax.dot_general(
        x, y, ((over_x, over_y), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )


def operands(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.lax.Precision | None]:
    """The factors, and the precision of their product; see `halcyon.models.parts.weight.contract`."""
    if jax.default_backend() == "cpu":  # on CPU, XLA has no product of narrow types with a wide result
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return x, y, jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
