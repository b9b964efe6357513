"""Products of groups on NVIDIA GPUs: one kernel for all groups, in Triton's form of Pallas.

The rows of each group are cut into tiles, and a program of the kernel computes one tile of the result. So each number
is written once, by one program, in a fixed order of its sum: the bits repeat. The tiles of all groups are listed on the
device, so the host reads no sizes. Rows without a group form tiles of zeros.

No library has all three products with float32 gradients for all GPUs (docs/design/experts.md has the comparison). The
form of the kernel follows Haliax 0.2.227 (``haliax.nn.ragged_dot``, after openxla/tokamax), whose sizes of tiles were
measured on an H100 and a GB200.
"""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from halcyon_api.hardware.kinds import Architecture, Tile

_LEAST_TILE = 16
"""Smallest side of a tile that the products of tensor cores have."""
_FEW_ROWS = 2048
"""With fewer rows of a group, some GPUs are faster in smaller tiles of outer products."""
_WIDE_SIDE = 64
"""Sides of a tile of float32, which tensor cores do not multiply in full precision."""


def _fitting(tile: Tile, rows: int, columns: int, depth: int, dtype: Any) -> Tile:
    """The tile for a result of these sizes and factors of this type."""
    size = jnp.dtype(dtype).itemsize
    side = _WIDE_SIDE if size == 4 else max(tile.rows, tile.columns)
    return replace(
        tile,
        rows=_side(min(tile.rows, side), rows),
        columns=_side(min(tile.columns, side), columns),
        depth=_side(max(_LEAST_TILE, tile.depth * 2 // size), depth, least=max(_LEAST_TILE, 32 // size)),
    )


def _side(most: int, size: int, least: int = _LEAST_TILE) -> int:
    return max(least, min(most, pl.next_power_of_2(size)))


def outer_tile(architecture: Architecture, rows_of_group: int) -> Tile:
    """The tile for sums of outer products.

    Args:
        architecture: Of the GPU.
        rows_of_group: Mean number of rows of a group.
    """
    return (rows_of_group < _FEW_ROWS and architecture.outer_of_few) or architecture.outer


def row_products(
    rows: jax.Array,
    matrices: jax.Array,
    sizes: jax.Array,
    *,
    transposed: bool,
    into: Any,
    tile: Tile,
    interpret: bool = False,
) -> jax.Array:
    """The product of each row with the matrix of its group: [row, output]; zeros for a row without a group. Sums are
    float32 or int32.

    Args:
        rows: [row, input], sorted by group.
        matrices: [group, input, output]; [group, output, input] if `transposed`. Of the type of `rows`.
        sizes: int32 [group]: the number of rows of each group.
        transposed: Whether to use the transposed matrices.
        into: Type of the result.
        tile: That of the architecture.
        interpret: Run the kernel without a GPU, for tests.
    """
    count, inputs = rows.shape
    groups, outputs = len(matrices), matrices.shape[1 if transposed else 2]
    tile = _fitting(tile, count, outputs, inputs, rows.dtype)
    tiles = count // tile.rows + groups + 1  # at least the tiles of all groups, and of the rows without one
    call = pl.pallas_call(
        functools.partial(
            _row_kernel, tile=tile, tiles=tiles, groups=groups, inputs=inputs, outputs=outputs, transposed=transposed
        ),
        out_shape=jax.ShapeDtypeStruct((count, outputs), into),
        in_specs=[pl.no_block_spec] * 3,
        out_specs=pl.no_block_spec,
        grid=(tiles * pl.cdiv(outputs, tile.columns),),
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
        name="grouped_rows",
    )
    return call(rows, matrices, _row_tiles(sizes, count, tile.rows, tiles))


def outer_products(
    rows: jax.Array,
    others: jax.Array,
    sizes: jax.Array,
    *,
    into: Any = jnp.float32,
    tile: Tile,
    interpret: bool = False,
) -> jax.Array:
    """The sum of the outer products of the rows of each group: [group, input, output]. Sums are float32 or int32.

    Args:
        rows: [row, input], sorted by group.
        others: [row, output], in the same order and of the same type.
        sizes: int32 [group]: the number of rows of each group.
        into: Type of the result.
        tile: That of the architecture.
        interpret: Run the kernel without a GPU, for tests.
    """
    (count, inputs), outputs, groups = rows.shape, others.shape[1], len(sizes)
    tile = _fitting(tile, inputs, outputs, count, rows.dtype)
    call = pl.pallas_call(
        functools.partial(_outer_kernel, tile=tile, inputs=inputs, outputs=outputs),
        out_shape=jax.ShapeDtypeStruct((groups, inputs, outputs), into),
        in_specs=[pl.no_block_spec] * 3,
        out_specs=pl.no_block_spec,
        grid=(groups * pl.cdiv(inputs, tile.rows) * pl.cdiv(outputs, tile.columns),),
        compiler_params=plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
        name="grouped_outer",
    )
    return call(rows, others, jnp.cumulative_sum(sizes.astype(jnp.int32), include_initial=True))


def _row_tiles(sizes: jax.Array, count: int, block: int, tiles: int) -> jax.Array:
    """The tiles of the rows: int32 [3, tile] with the group, the first row, and the row after the last one.

    The rows without a group are one more group. Tiles that are not needed have no rows.
    """
    sizes = sizes.astype(jnp.int32)
    sizes = jnp.concatenate([sizes, count - jnp.sum(sizes, keepdims=True)])
    ends, tile_ends = jnp.cumsum(sizes), jnp.cumsum(-(-sizes // block))
    tile = jnp.arange(tiles, dtype=jnp.int32)
    # One comparison of all pairs is one fused kernel; a binary search would be several.
    found = jnp.searchsorted(tile_ends, tile, side="right", method="compare_all").astype(jnp.int32)
    group = jnp.minimum(found, len(sizes) - 1)
    first = ends[group] - sizes[group] + (tile - (tile_ends[group] + -sizes[group] // block)) * block
    return jnp.stack(
        [group, first, jnp.where(found < len(sizes), jnp.minimum(first + block, ends[group]), first)]
    ).astype(jnp.int32)


def _place(program: jax.Array, rows: int, columns: int, band: int) -> tuple[jax.Array, jax.Array]:
    """The place of a program's tile among ``rows x columns`` tiles: down a band of rows, then on to the next column."""
    of_band = band * columns
    first = (program // of_band) * band
    height = jnp.minimum(rows - first, band)
    within = program % of_band
    return first + within % height, within // height


def _row_kernel(
    rows_ref: Any,
    matrices_ref: Any,
    tiles_ref: Any,
    out_ref: Any,
    *,
    tile: Tile,
    tiles: int,
    groups: int,
    inputs: int,
    outputs: int,
    transposed: bool,
) -> None:
    at, column = _place(pl.program_id(0), tiles, pl.cdiv(outputs, tile.columns), tile.band)
    group, first, end = tiles_ref[0, at], tiles_ref[1, at], tiles_ref[2, at]
    down, across = pl.ds(first, tile.rows), pl.ds(column * tile.columns, tile.columns)
    is_row = first + jnp.arange(tile.rows) < end
    is_output = _within(column * tile.columns, tile.columns, outputs)
    stored = _both(is_row, is_output)

    @pl.when((first < end) & (group == groups))
    def _() -> None:
        plgpu.store(out_ref.at[down, across], jnp.zeros((tile.rows, tile.columns), out_ref.dtype), mask=stored)

    @pl.when((first < end) & (group < groups))
    def _() -> None:
        def add(step: jax.Array, total: jax.Array) -> jax.Array:
            part = pl.ds(step * tile.depth, tile.depth)
            is_input = _within(step * tile.depth, tile.depth, inputs)
            left = _load(rows_ref.at[down, part], _both(is_row, is_input))
            if transposed:
                return total + _dot(left, _load(matrices_ref.at[group, across, part], _both(is_output, is_input)), 1, 1)
            return total + _dot(left, _load(matrices_ref.at[group, part, across], _both(is_input, is_output)), 1, 0)

        start = jnp.zeros((tile.rows, tile.columns), _sums(rows_ref.dtype))
        total = jax.lax.fori_loop(0, pl.cdiv(inputs, tile.depth), add, start)
        plgpu.store(out_ref.at[down, across], total.astype(out_ref.dtype), mask=stored)


def _outer_kernel(
    rows_ref: Any, others_ref: Any, bounds_ref: Any, out_ref: Any, *, tile: Tile, inputs: int, outputs: int
) -> None:
    down, across = pl.cdiv(inputs, tile.rows), pl.cdiv(outputs, tile.columns)
    group = pl.program_id(0) // (down * across)
    at, column = _place(pl.program_id(0) % (down * across), down, across, tile.band)
    begin, end = bounds_ref[group], bounds_ref[group + 1]
    left_part, right_part = pl.ds(at * tile.rows, tile.rows), pl.ds(column * tile.columns, tile.columns)
    is_input, is_output = (
        _within(at * tile.rows, tile.rows, inputs),
        _within(column * tile.columns, tile.columns, outputs),
    )

    def add(step: jax.Array, total: jax.Array, is_row: jax.Array | None = None) -> jax.Array:
        part = pl.ds(begin + step * tile.depth, tile.depth)
        left = _load(rows_ref.at[part, left_part], _both(is_row, is_input))
        return total + _dot(left, _load(others_ref.at[part, right_part], _both(is_row, is_output)), 0, 0)

    # Only the last step has rows of other groups. A group without rows makes one step of zeros.
    last = jnp.maximum(pl.cdiv(end - begin, tile.depth), 1) - 1
    total = jax.lax.fori_loop(0, last, add, jnp.zeros((tile.rows, tile.columns), _sums(rows_ref.dtype)))
    total = add(last, total, begin + last * tile.depth + jnp.arange(tile.depth) < end)
    plgpu.store(out_ref.at[group, left_part, right_part], total.astype(out_ref.dtype), mask=_both(is_input, is_output))


def _within(first: Any, count: int, size: int) -> jax.Array | None:
    """Whether each of `count` numbers from `first` on is below `size`; None if all are, whatever the tile."""
    return None if size % count == 0 else first + jnp.arange(count) < size


def _both(down: jax.Array | None, across: jax.Array | None) -> jax.Array | None:
    if down is None or across is None:
        return down[:, None] if down is not None else across[None, :] if across is not None else None
    return down[:, None] & across[None, :]


def _load(ref: Any, mask: jax.Array | None) -> jax.Array:
    if mask is None:
        return plgpu.load(ref)
    return plgpu.load(
        ref, mask=mask, other=0 if jnp.issubdtype(ref.dtype, jnp.integer) else 0.0
    )  # Pallas casts no integer to 8 bits


def _dot(left: jax.Array, right: jax.Array, over_left: int, over_right: int) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        left,
        right,
        (((over_left,), (over_right,)), ((), ())),
        precision=precision,
        preferred_element_type=_sums(left.dtype),
    )


def _sums(dtype: Any) -> Any:
    """The type of the sums of products of a type."""
    return jnp.int32 if jnp.issubdtype(dtype, jnp.integer) else jnp.float32
