"""Gradients of causal attention on NVIDIA GPUs of compute capability 10 (Blackwell), by two kernels of Pallas.

The method, the tiles and the repeated bits are those of `halcyon.models.parts.hopper_gradients`. The tensor cores of
this generation keep sums in a memory of their own (TMEM), 512 columns of 128 rows and 32 bits, and one thread starts
their products. So the warps of a block have different work: the first warp group copies operands into shared memory and
starts products, the others compute weights. While they compute those of one step, the products of the next one run.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from halcyon.models.parts.gpu_backward import LOG2_E, SHARED_BYTES, Backward, along, capped, like, operand, weights
from halcyon.models.parts.visible_tiles import latest_first_keys, tiles_of_keys, tiles_of_queries

TILE = 128
"""Positions of a tile that one block keeps: the rows of TMEM. It divides the positions of a row."""
_QUERIES = 64
"""Positions of a tile of queries that a tile of keys goes over."""
_COLUMNS = 512
_STAGES = 2
_SCORES = plgpu.Layout.TCGEN05
_BY_ROW, _BY_COLUMN = _SCORES.reduce(1), _SCORES.reduce(0)


def gradients(given: Backward, soft_cap: float | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """See `halcyon.models.parts.hopper_gradients.gradients`."""
    rows, positions, heads, _ = given.query.shape
    features, of_value = given.sizes
    dtype, first = given.query.dtype, given.first
    keys = keys_of_step(given.position_bytes)
    buffers = 2 if 4 * _QUERIES + features + of_value <= _COLUMNS else 1

    def call(
        kernel: Any, heads: int, groups: int, outputs: Any, latest: int, visible: jax.Array, **scratch: Any
    ) -> Any:
        return plgpu.kernel(
            functools.partial(kernel, soft_cap=soft_cap, sharing=given.sharing),
            out_type=outputs,
            scratch_types=scratch,
            compiler_params=plgpu.CompilerParams(approx_math=True),
            kernel_name=f"attention_gradient{kernel.__name__}",
            grid=(rows, heads, positions // TILE),
            grid_names=("row", "head", "tile"),
            num_threads=1 + groups,
            thread_name="group",
        )(given, latest_first_keys(first, latest), visible)

    def of_tensor_cores(number: int = 1) -> plgpu.Barrier:
        return plgpu.Barrier(num_barriers=number, orders_tensor_core=True)

    def operands(positions: int, *stages: int) -> list[Any]:
        return [operand((*stages, positions, size), dtype) for size in given.sizes]

    (by_query,) = call(
        _by_query,
        heads,
        1,
        like(given.query),
        TILE,
        tiles_of_keys(first, TILE, keys),
        kept=operands(TILE),
        moving=operands(keys, _STAGES),
        score=plgpu.TMEM((TILE, keys), jnp.float32),
        of_weights=plgpu.RefUnion(plgpu.TMEM((TILE, keys), jnp.float32), plgpu.TMEM((TILE, keys), dtype, packed=True)),
        total=plgpu.TMEM((TILE, features), jnp.float32),
        kept_here=plgpu.Barrier(num_arrivals=2),
        moving_here=plgpu.Barrier(num_arrivals=2, num_barriers=_STAGES),
        read=of_tensor_cores(_STAGES),
        score_here=of_tensor_cores(),
        score_read=of_tensor_cores(),
        by_weight_here=of_tensor_cores(),
        by_score_here=of_tensor_cores(),
        finished=of_tensor_cores(),
    )

    def scores() -> plgpu.RefUnion:
        # Numbers of 16 bits are two in a column: those of a buffer begin where its scores did.
        return plgpu.RefUnion(
            plgpu.TMEM((TILE, buffers * _QUERIES), jnp.float32),
            plgpu.TMEM((TILE, buffers * 2 * _QUERIES), dtype, packed=True),
        )

    by_key, by_value = call(
        _by_key,
        given.key.shape[2],
        buffers,
        like(given.key, given.value),
        _QUERIES,
        tiles_of_queries(first, TILE, _QUERIES),
        kept=operands(TILE),
        moving=operands(_QUERIES, _STAGES),
        numbers=[plgpu.SMEM((buffers, _QUERIES), jnp.float32) for _ in range(2)],
        of_scores=scores(),
        of_weights=scores(),
        totals=[plgpu.TMEM((TILE, size), jnp.float32) for size in given.sizes],
        kept_here=plgpu.Barrier(num_arrivals=2),
        moving_here=plgpu.Barrier(num_arrivals=2, num_barriers=_STAGES),
        read=of_tensor_cores(_STAGES),
        numbers_here=plgpu.Barrier(num_arrivals=2, num_barriers=buffers),
        numbers_read=plgpu.Barrier(num_barriers=buffers),
        score_here=of_tensor_cores(buffers),
        by_weight_here=of_tensor_cores(buffers),
        weight_here=of_tensor_cores(buffers),
        by_score_here=of_tensor_cores(buffers),
        finished=of_tensor_cores(),
    )
    return by_query, by_key, by_value


def keys_of_step(position_bytes: int) -> int:
    """Positions of a tile of keys that a tile of queries goes over: as many as fit into shared memory."""
    return TILE if (TILE + _STAGES * TILE) * position_bytes + 4096 < SHARED_BYTES else TILE // 2


def _by_query(
    given: Any,
    latest: Any,
    visible: Any,
    gradient: Any,
    *,
    kept: Any,
    moving: Any,
    score: Any,
    of_weights: Any,
    total: Any,
    kept_here: Any,
    moving_here: Any,
    read: Any,
    score_here: Any,
    score_read: Any,
    by_weight_here: Any,
    by_score_here: Any,
    finished: Any,
    soft_cap: float | None,
    sharing: int,
) -> None:
    """The gradient by a tile of queries of one head."""
    row, head, group = (jax.lax.axis_index(name) for name in ("row", "head", "group"))
    # The tiles that see the most keys come first, so that the last blocks of the grid are short.
    tile = given.query.shape[1] // TILE - 1 - jax.lax.axis_index("tile")
    position, of_keys, size = tile * TILE, jax.lax.div(head, jnp.int32(sharing)), score.shape[1]
    own = pl.ds(position, TILE)
    begin, end = visible[row, tile, 0], visible[row, tile, 1]
    steps = end - begin
    (query, cotangent), (keys, values), (by_weight, by_score) = kept, moving, of_weights

    def copy_kept() -> None:
        for array, place in ((given.query, query), (given.cotangent, cotangent)):
            plgpu.copy_gmem_to_smem(array.at[row, own, head], place, kept_here)

    def copy_moving() -> None:
        @pl.loop(0, steps)
        def each(i: Any) -> None:
            slot, part = jax.lax.rem(i, _STAGES), pl.ds((begin + i) * size, size)
            pl.when(i >= _STAGES)(lambda: plgpu.barrier_wait(read.at[slot]))
            for array, place in ((given.key, keys), (given.value, values)):
                plgpu.copy_gmem_to_smem(array.at[row, part, of_keys], place.at[slot], moving_here.at[slot])

    def multiply() -> None:
        plgpu.barrier_wait(kept_here)

        @pl.loop(0, steps + 1)
        def each(i: Any) -> None:
            slot, before = jax.lax.rem(i, _STAGES), jax.lax.rem(i + _STAGES - 1, _STAGES)

            @pl.when(i < steps)
            def _() -> None:
                plgpu.barrier_wait(moving_here.at[slot])
                pl.when(i > 0)(lambda: plgpu.barrier_wait(score_read))
                plgpu.tcgen05_mma(score, query, keys.at[slot].T, score_here, accumulate=False)

            @pl.when(i > 0)
            def _() -> None:
                plgpu.barrier_wait(by_score_here)
                plgpu.tcgen05_mma(total, by_score, keys.at[before], read.at[before], accumulate=i > 1)

            @pl.when(i < steps)
            def _() -> None:
                plgpu.tcgen05_mma(by_weight, cotangent, values.at[slot].T, by_weight_here, accumulate=False)

        plgpu.tcgen05_commit_arrive(finished)

    pl.when(group == 0)(lambda: _warps(copy_kept, copy_moving, multiply))

    @pl.when(group == 1)
    def compute() -> None:
        log_total, mean = (
            plgpu.load(x.at[row, head, own], layout=_BY_ROW, optimized=False) for x in (given.log_totals, given.means)
        )
        start, all_start = plgpu.load(given.first.at[row, own], layout=_BY_ROW, optimized=False), latest[row, tile]
        log_total = log_total * LOG2_E

        @pl.loop(0, steps)
        def each(i: Any) -> None:
            plgpu.barrier_wait(score_here)
            found = plgpu.async_load_tmem(score, layout=_SCORES)
            plgpu.wait_load_tmem()
            plgpu.barrier_arrive(score_read)
            bounded, slope = capped(found, soft_cap)
            weight = weights(
                bounded,
                log_total,
                keys=1,
                key=(begin + i) * size,
                query=position,
                latest=all_start,
                first=lambda: start,
                layout=_SCORES,
            )
            plgpu.barrier_wait(by_weight_here)
            change = plgpu.async_load_tmem(by_weight, layout=_SCORES)
            plgpu.wait_load_tmem()
            plgpu.async_store_tmem(
                by_score, (weight * (change - along(mean, 0, weight)) * slope).astype(by_score.dtype)
            )
            plgpu.commit_tmem()
            plgpu.barrier_arrive(by_score_here)

        plgpu.barrier_wait(finished)
        _store(((total, query, gradient.at[row, own, head]),))


def _by_key(
    given: Any,
    latest: Any,
    visible: Any,
    key_gradient: Any,
    value_gradient: Any,
    *,
    kept: Any,
    moving: Any,
    numbers: Any,
    of_scores: Any,
    of_weights: Any,
    totals: Any,
    kept_here: Any,
    moving_here: Any,
    read: Any,
    numbers_here: Any,
    numbers_read: Any,
    score_here: Any,
    by_weight_here: Any,
    weight_here: Any,
    by_score_here: Any,
    finished: Any,
    soft_cap: float | None,
    sharing: int,
) -> None:
    """The gradients by a tile of keys of one head, and by their values. Scores are [key, query]."""
    row, head, tile, group = (jax.lax.axis_index(name) for name in ("row", "head", "tile", "group"))
    position, buffers = tile * TILE, numbers[0].shape[0]
    own = pl.ds(position, TILE)
    begin, end = visible[row, tile, 0], visible[row, tile, 1]
    steps = (end - begin) * sharing
    (key, value), (queries, cotangents), (by_key, by_value) = kept, moving, totals

    def place(i: Any) -> tuple[Any, Any]:
        """Tile and head of the queries of a step."""
        return begin + jax.lax.div(i, jnp.int32(sharing)), head * sharing + jax.lax.rem(i, jnp.int32(sharing))

    def score(union: Any, buffer: Any) -> Any:
        return union[0].at[:, pl.ds(buffer * _QUERIES, _QUERIES)]

    def half(union: Any, buffer: Any) -> Any:
        return union[1].at[:, pl.ds(buffer * 2 * _QUERIES, _QUERIES)]

    def copy_kept() -> None:
        for array, to in ((given.key, key), (given.value, value)):
            plgpu.copy_gmem_to_smem(array.at[row, own, head], to, kept_here)

    def copy_moving() -> None:
        @pl.loop(0, steps)
        def each(i: Any) -> None:
            slot, (at, of_query) = jax.lax.rem(i, _STAGES), place(i)
            pl.when(i >= _STAGES)(lambda: plgpu.barrier_wait(read.at[slot]))
            for array, to in ((given.query, queries), (given.cotangent, cotangents)):
                part = array.at[row, pl.ds(at * _QUERIES, _QUERIES), of_query]
                plgpu.copy_gmem_to_smem(part, to.at[slot], moving_here.at[slot])

    def copy_numbers() -> None:
        @pl.loop(0, steps)
        def each(i: Any) -> None:
            buffer, (at, of_query) = jax.lax.rem(i, jnp.int32(buffers)), place(i)
            pl.when(i >= buffers)(lambda: plgpu.barrier_wait(numbers_read.at[buffer]))
            for array, to in zip((given.log_totals, given.means), numbers, strict=True):
                part = array.at[row, of_query, pl.ds(at * _QUERIES, _QUERIES)]
                plgpu.copy_gmem_to_smem(part, to.at[buffer], numbers_here.at[buffer])

    def multiply() -> None:
        plgpu.barrier_wait(kept_here)

        def begin_step(i: Any) -> None:
            slot, buffer = jax.lax.rem(i, _STAGES), jax.lax.rem(i, jnp.int32(buffers))
            plgpu.barrier_wait(moving_here.at[slot])
            plgpu.tcgen05_mma(
                score(of_scores, buffer), key, queries.at[slot].T, score_here.at[buffer], accumulate=False
            )
            plgpu.tcgen05_mma(
                score(of_weights, buffer), value, cotangents.at[slot].T, by_weight_here.at[buffer], accumulate=False
            )

        def end_step(i: Any) -> None:
            slot, buffer = jax.lax.rem(i, _STAGES), jax.lax.rem(i, jnp.int32(buffers))
            plgpu.barrier_wait(weight_here.at[buffer])
            plgpu.tcgen05_mma(by_value, half(of_scores, buffer), cotangents.at[slot], accumulate=i > 0)
            plgpu.barrier_wait(by_score_here.at[buffer])
            plgpu.tcgen05_mma(by_key, half(of_weights, buffer), queries.at[slot], read.at[slot], accumulate=i > 0)

        # With two buffers, the products of a step begin before those that wait for the weights of the last one.
        @pl.loop(0, steps + 1)
        def each(i: Any) -> None:
            if buffers == 1:
                pl.when(i > 0)(lambda: end_step(i - 1))
            pl.when(i < steps)(lambda: begin_step(i))
            if buffers == 2:
                pl.when(i > 0)(lambda: end_step(i - 1))

        plgpu.tcgen05_commit_arrive(finished)

    pl.when(group == 0)(lambda: _warps(copy_kept, copy_moving, multiply, copy_numbers))

    @pl.when(group > 0)
    def compute() -> None:
        buffer = group - 1

        @pl.loop(0, jax.lax.div(steps - buffer + buffers - 1, jnp.int32(buffers)))
        def each(turn: Any) -> None:
            at, _ = place(turn * buffers + buffer)
            query_position = at * _QUERIES

            plgpu.barrier_wait(numbers_here.at[buffer])
            log_total, mean = (plgpu.load(x.at[buffer], layout=_BY_COLUMN) for x in numbers)
            plgpu.barrier_arrive(numbers_read.at[buffer])
            plgpu.barrier_wait(score_here.at[buffer])
            bounded, slope = capped(plgpu.async_load_tmem(score(of_scores, buffer), layout=_SCORES), soft_cap)
            plgpu.wait_load_tmem()
            part = given.first.at[row, pl.ds(query_position, _QUERIES)]
            weight = weights(
                bounded,
                log_total * LOG2_E,
                keys=0,
                key=position,
                query=query_position,
                latest=latest[row, at],
                first=lambda: plgpu.load(part, layout=_BY_COLUMN, optimized=False),
                layout=_SCORES,
            )
            plgpu.async_store_tmem(half(of_scores, buffer), weight.astype(key.dtype))
            plgpu.commit_tmem()
            plgpu.barrier_arrive(weight_here.at[buffer])
            plgpu.barrier_wait(by_weight_here.at[buffer])
            change = plgpu.async_load_tmem(score(of_weights, buffer), layout=_SCORES)
            plgpu.wait_load_tmem()
            by_score = weight * (change - along(mean, 1, weight)) * slope
            plgpu.async_store_tmem(half(of_weights, buffer), by_score.astype(key.dtype))
            plgpu.commit_tmem()
            plgpu.barrier_arrive(by_score_here.at[buffer])

        @pl.when(group == 1)
        def _() -> None:
            plgpu.barrier_wait(finished)
            outputs = (gradient.at[row, own, head] for gradient in (key_gradient, value_gradient))
            _store(tuple(zip(totals, kept, outputs, strict=True)))


def _warps(*work: Callable[[], None]) -> None:
    """Let each warp of a warp group do one of these works."""

    @plgpu.warp_map
    def each(warp: Any) -> None:
        for number, one in enumerate(work):
            pl.when(warp == number)(one)


def _store(sums: tuple[tuple[Any, Any, Any], ...]) -> None:
    """Copy sums out of TMEM, through shared memory that no product reads any more."""
    for total, shared, _ in sums:
        shared[...] = plgpu.async_load_tmem(total, layout=_SCORES).astype(shared.dtype)
    plgpu.wait_load_tmem()
    plgpu.commit_smem()
    for _, shared, gradient in sums:
        plgpu.copy_smem_to_gmem(shared, gradient)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
