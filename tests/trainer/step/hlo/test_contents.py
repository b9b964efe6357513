"""Kernels, loops and matrix products are read from programs for GPUs and TPUs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from halcyon.step.hlo.contents import calls, loops, phase_of, products, scope_of
from halcyon.step.hlo.module import Array, parse
from tests.trainer.step.hlo.programs import GPU, TPU


def test_calls_have_their_kernel_their_loops_and_the_part_of_the_step() -> None:
    found = [(one.target, one.kernel, one.phase, one.scope, one.loops, one.times) for one in calls(parse(GPU))]
    assert found == [
        ("__cublas$lt$matmul$f8", "product", "forward", "", (5,), 5),
        ("mosaic_gpu_v2", "attended", "recomputed", "attention", (5,), 5),
        ("__cublas$gemm", "call", "backward", "attention", (5, None), 5),
    ]
    assert [one.target for one in calls(parse(GPU)) if not one.is_product] == ["mosaic_gpu_v2"]


def test_metadata_of_several_lines_belongs_to_its_kernel_and_buffers_are_no_calls() -> None:
    (kernel,) = calls(parse(TPU))
    assert (kernel.target, kernel.phase, kernel.scope, kernel.times) == ("tpu_custom_call", "backward", "experts", 4)


def test_loops_have_their_iterations_and_say_where_the_data_decides() -> None:
    layers, inner = loops(parse(GPU))
    assert (layers.trips, layers.outer, layers.products, layers.calls, layers.scope) == (5, (), 1, 1, "")
    assert (inner.trips, inner.outer, inner.products, inner.calls, inner.scope, inner.phase) == (
        None,
        (5,),
        1,
        0,
        "attention",
        "backward",
    )


def test_a_counter_that_grows_by_two_has_half_as_many_iterations() -> None:
    assert [loop.trips for loop in loops(parse(TPU))] == [4]


def test_products_have_the_type_of_their_factors_and_their_operations() -> None:
    narrow, wide = products(parse(GPU))
    assert (narrow.dtype, narrow.depth, narrow.times, narrow.flops) == ("f8e4m3fn", 1, 5, 5 * 2 * 128 * 64 * 32)
    assert (wide.depth, wide.times) == (2, 5)


def test_a_product_that_is_written_as_a_convolution_counts_no_padding() -> None:
    (product,) = products(parse(TPU))
    assert (product.dtype, product.flops) == ("bf16", 2 * 8 * 16 * 32 * 64)


def test_operations_are_those_that_the_compiler_counts() -> None:
    def step(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.einsum("bij,bjk->bik", x, w) @ w[0].T)

    arrays = jax.ShapeDtypeStruct((4, 64, 128), jnp.float32), jax.ShapeDtypeStruct((4, 128, 32), jnp.float32)
    compiled = jax.jit(step).lower(*arrays).compile()
    counted: Any = compiled.cost_analysis()
    assert sum(one.flops for one in products(parse(compiled.as_text() or ""))) == pytest.approx(
        counted["flops"], rel=0.02
    )


@pytest.mark.parametrize(
    ("operation", "phase", "scope"),
    [
        ("jit(train_step)/jvp(attention)/while", "forward", "attention"),
        ("jit(train_step)/transpose(jvp())/while/body/attention/dot", "backward", "attention"),
        ("jit(train_step)/transpose(jvp())/checkpoint/rematted_computation/experts/dot", "recomputed", "experts"),
        ("jit(train_step)/jvp()/self_attention_norm/mul", "forward", ""),
    ],
)
def test_names_of_operations_say_the_part_of_the_step_and_of_the_model(operation: str, phase: str, scope: str) -> None:
    assert (phase_of(operation), scope_of(operation)) == (phase, scope)


@pytest.mark.parametrize(
    ("dtype", "size_bytes"), [("pred", 8), ("bf16", 16), ("f32", 32), ("f8e4m3fn", 8), ("f4e2m1fn", 4), ("s4", 4)]
)
def test_types_have_their_size(dtype: str, size_bytes: int) -> None:
    assert Array(dtype, (8,)).size_bytes == size_bytes
