"""Gradients of causal attention on NVIDIA GPUs of compute capability 9 (Hopper), by two kernels of Pallas.

The method is that of FlashAttention-2 (Dao 2023, section 3.1): one kernel has a tile of queries and goes over the keys
that it sees; one has a tile of keys and goes over the queries that see it. Neither adds into memory that another block
writes, so the same inputs give the same bits. Both compute visible tiles alone (`halcyon.models.parts.visible_tiles`).

A block has two warp groups that compute, each with 64 rows of the tile, and one that copies the next operands into
shared memory.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from halcyon.models.parts import gpu_backward
from halcyon.models.parts.visible_tiles import latest_first_keys, tiles_of_keys, tiles_of_queries

BLOCK = 64
"""Positions of a warp group: the rows of one product of `wgmma`."""
_GROUPS = 2
TILE = BLOCK * _GROUPS
"""Positions of a tile that one block keeps. It divides the positions of a row."""
_MEMORY_REGISTERS = 40
_SCORES = plgpu.Layout.WGMMA
_BY_ROW, _BY_COLUMN = _SCORES.reduce(1), _SCORES.reduce(0)


def gradients(given: gpu_backward.Backward, soft_cap: float | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients by query, key and value, with their shapes and types.

    Args:
        given: The inputs.
        soft_cap: Bound of the scores: soft_cap x tanh(score / soft_cap). None: no bound.
    """
    rows, positions, heads, _ = given.query.shape
    latest, dtype = latest_first_keys(given.first, BLOCK), given.query.dtype
    stages = 2 if (TILE + 2 * BLOCK) * given.position_bytes + 1024 < gpu_backward.SHARED_BYTES else 1

    def call(kernel: Any, heads: int, outputs: Any, visible: jax.Array) -> Any:
        kept = [gpu_backward.operand((_GROUPS, BLOCK, features), dtype) for features in given.sizes]
        return plgpu.kernel(
            functools.partial(kernel, soft_cap=soft_cap, sharing=given.sharing, stages=stages),
            out_type=outputs,
            scratch_types=[*kept, plgpu.Barrier(num_arrivals=2, num_barriers=_GROUPS)],
            compiler_params=plgpu.CompilerParams(approx_math=True),
            kernel_name=f"attention_gradient{kernel.__name__}",
            grid=(rows, heads, positions // TILE),
            grid_names=("row", "head", "tile"),
            num_threads=_GROUPS + 1,
            thread_name="group",
        )(given, latest, visible)

    (by_query,) = call(_by_query, heads, gpu_backward.like(given.query), tiles_of_keys(given.first, TILE, BLOCK))
    outputs, seeing = gpu_backward.like(given.key, given.value), tiles_of_queries(given.first, TILE, BLOCK)
    return by_query, *call(_by_key, given.key.shape[2], outputs, seeing)


def _by_query(
    given: Any,
    latest: Any,
    visible: Any,
    gradient: Any,
    query_kept: Any,
    cotangent_kept: Any,
    barriers: Any,
    *,
    soft_cap: float | None,
    sharing: int,
    stages: int,
) -> None:
    """The gradient by a tile of queries of one head."""
    row, head, group = (jax.lax.axis_index(name) for name in ("row", "head", "group"))
    # The tiles that see the most keys come first, so that the last blocks of the grid are short.
    tile = given.query.shape[1] // TILE - 1 - jax.lax.axis_index("tile")
    position = tile * TILE + group * BLOCK
    own, of_keys = pl.ds(position, BLOCK), jax.lax.div(head, jnp.int32(sharing))
    begin, end = visible[row, tile, 0], visible[row, tile, 1]
    query, cotangent, barrier = query_kept.at[group], cotangent_kept.at[group], barriers.at[group]

    def whole(pipeline: Any) -> None:
        plgpu.copy_gmem_to_smem(given.query.at[row, own, head], query, barrier)
        plgpu.copy_gmem_to_smem(given.cotangent.at[row, own, head], cotangent, barrier)
        log_total, mean = (
            plgpu.load(x.at[row, head, own], layout=_BY_ROW, optimized=False) for x in (given.log_totals, given.means)
        )
        start = plgpu.load(given.first.at[row, own], layout=_BY_ROW, optimized=False)
        numbers = (log_total * gpu_backward.LOG2_E, mean, start, latest[row, tile * _GROUPS + group])
        plgpu.barrier_wait(barrier)

        def accumulate(total: Any) -> jax.Array:
            pipeline((total, *numbers))
            return total[...]

        query[...] = pl.run_scoped(accumulate, plgpu.WGMMAAccumulatorRef(query.shape, jnp.float32)).astype(query.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(query, gradient.at[row, own, head])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def step(index: Any, value: Any, key: Any, value_read: Any, key_read: Any, carry: Any) -> Any:
        total, log_total, mean, start, all_start = carry
        key_position = (begin + index[0]) * BLOCK

        def products(by_weight: Any, score: Any) -> tuple[jax.Array, jax.Array]:
            plgpu.wgmma(by_weight, cotangent, value.T)
            plgpu.wgmma(score, query, key.T)
            plgpu.wgmma_wait(1)
            plgpu.barrier_arrive(value_read)
            return by_weight[...], score[...]

        by_weight, score = pl.run_scoped(products, _accumulator(), _accumulator())
        score, slope = gpu_backward.capped(score, soft_cap)
        weight = gpu_backward.weights(
            score,
            log_total,
            keys=1,
            key=key_position,
            query=position,
            latest=all_start,
            first=lambda: start,
            layout=_SCORES,
        )
        by_score = weight * (by_weight - gpu_backward.along(mean, 0, weight)) * slope
        plgpu.wgmma(total, by_score.astype(key.dtype), key)
        plgpu.wgmma_wait(0)
        plgpu.barrier_arrive(key_read)
        return carry

    def spec(array: Any) -> plgpu.BlockSpec:
        return _block_spec(array.shape[-1], array.dtype, lambda i: (row, begin + i, of_keys, 0))

    plgpu.emit_pipeline_warp_specialized(
        step,
        grid=(end - begin,),
        max_concurrent_steps=stages,
        num_compute_wgs=_GROUPS,
        memory_registers=_MEMORY_REGISTERS,
        wg_axis="group",
        manual_consumed_barriers=True,
        compute_context=whole,
        in_specs=[spec(given.value), spec(given.key)],
    )(given.value, given.key)


def _by_key(
    given: Any,
    latest: Any,
    visible: Any,
    key_gradient: Any,
    value_gradient: Any,
    key_kept: Any,
    value_kept: Any,
    barriers: Any,
    *,
    soft_cap: float | None,
    sharing: int,
    stages: int,
) -> None:
    """The gradients by a tile of keys of one head, and by their values. Scores are [key, query]."""
    row, head, tile, group = (jax.lax.axis_index(name) for name in ("row", "head", "tile", "group"))
    position = tile * TILE + group * BLOCK
    own = pl.ds(position, BLOCK)
    begin, end = visible[row, tile, 0], visible[row, tile, 1]
    key, value, barrier = key_kept.at[group], value_kept.at[group], barriers.at[group]

    def whole(pipeline: Any) -> None:
        plgpu.copy_gmem_to_smem(given.key.at[row, own, head], key, barrier)
        plgpu.copy_gmem_to_smem(given.value.at[row, own, head], value, barrier)
        plgpu.barrier_wait(barrier)

        def accumulate(by_key: Any, by_value: Any) -> tuple[jax.Array, jax.Array]:
            pipeline((by_key, by_value))
            return by_key[...], by_value[...]

        found = pl.run_scoped(accumulate, *(plgpu.WGMMAAccumulatorRef(x.shape, jnp.float32) for x in (key, value)))
        for kept, sums in zip((key, value), found, strict=True):
            kept[...] = sums.astype(kept.dtype)
        plgpu.commit_smem()
        for kept, gradient in ((key, key_gradient), (value, value_gradient)):
            plgpu.copy_smem_to_gmem(kept, gradient.at[row, own, head])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def step(
        index: Any,
        log_total: Any,
        mean: Any,
        cotangent: Any,
        query: Any,
        log_total_read: Any,
        mean_read: Any,
        cotangent_read: Any,
        query_read: Any,
        carry: Any,
    ) -> Any:
        by_key, by_value = carry
        tile_of_queries = begin + index[0]
        query_position = tile_of_queries * BLOCK

        def product(score: Any) -> tuple[jax.Array, ...]:
            plgpu.wgmma(score, key, query.T)
            numbers = tuple(plgpu.load(x, layout=_BY_COLUMN) for x in (log_total, mean))
            plgpu.barrier_arrive(log_total_read)
            plgpu.barrier_arrive(mean_read)
            return score[...], *numbers

        score, of_log_total, of_mean = pl.run_scoped(product, _accumulator())
        score, slope = gpu_backward.capped(score, soft_cap)
        part = given.first.at[row, pl.ds(query_position, BLOCK)]
        weight = gpu_backward.weights(
            score,
            of_log_total * gpu_backward.LOG2_E,
            keys=0,
            key=position,
            query=query_position,
            latest=latest[row, tile_of_queries],
            first=lambda: plgpu.load(part, layout=_BY_COLUMN, optimized=False),
            layout=_SCORES,
        )

        def products(by_weight: Any) -> jax.Array:
            plgpu.wgmma(by_weight, value, cotangent.T)
            plgpu.wgmma(by_value, weight.astype(cotangent.dtype), cotangent)
            return plgpu.wgmma_accumulator_load(by_weight, wait_n=1)

        by_score = weight * (pl.run_scoped(products, _accumulator()) - gpu_backward.along(of_mean, 1, weight)) * slope
        plgpu.wgmma(by_key, by_score.astype(query.dtype), query)
        plgpu.wgmma_wait(1)
        plgpu.barrier_arrive(cotangent_read)
        plgpu.wgmma_wait(0)
        plgpu.barrier_arrive(query_read)
        return carry

    def place(i: Any, j: Any) -> tuple[Any, Any]:
        return begin + i, head * sharing + j

    def spec(array: Any) -> plgpu.BlockSpec:
        def index_map(i: Any, j: Any) -> Any:
            tile, of_query = place(i, j)
            return row, tile, of_query, 0

        return _block_spec(array.shape[-1], array.dtype, index_map)

    numbers = plgpu.BlockSpec((None, None, BLOCK), lambda i, j: (row, *place(i, j)[::-1]))
    plgpu.emit_pipeline_warp_specialized(
        step,
        grid=(end - begin, sharing),
        max_concurrent_steps=stages,
        num_compute_wgs=_GROUPS,
        memory_registers=_MEMORY_REGISTERS,
        wg_axis="group",
        manual_consumed_barriers=True,
        compute_context=whole,
        in_specs=[numbers, numbers, spec(given.cotangent), spec(given.query)],
    )(given.log_totals, given.means, given.cotangent, given.query)


def _accumulator() -> Any:
    return plgpu.WGMMAAccumulatorRef((BLOCK, BLOCK), jnp.float32)


def _block_spec(features: int, dtype: Any, index_map: Any) -> plgpu.BlockSpec:
    return plgpu.BlockSpec((None, BLOCK, None, features), index_map, transforms=gpu_backward.OPERAND)
