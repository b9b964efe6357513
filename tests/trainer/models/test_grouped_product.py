"""Products of rows with the matrix of their group, against one product for each group."""

from __future__ import annotations

import functools
from collections.abc import Callable

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import NamedArray
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.commands.programs.devices import described
from halcyon.commands.programs.gpus import GPUS
from halcyon.models.parts import grouped_kernel
from halcyon.models.parts.attention_choice import Target, attending
from halcyon.models.parts.embedding import look_up
from halcyon.models.parts.grouped_kernel import outer_products, row_products
from halcyon.models.parts.grouped_product import (
    BLOCK,
    grouped_outer,
    grouped_product,
    grouped_sum,
    sums_at,
)
from halcyon_api.hardware.kinds import Tile

ROWS, INPUTS, OUTPUTS, GROUPS = 40, 5, 3, 4

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["blocks", "ragged", "kernel"])
CUTS = st.lists(st.integers(0, ROWS), min_size=GROUPS, max_size=GROUPS).map(sorted)
"""Ends of the groups; two equal ones are an empty group, and rows after the last belong to none."""

product = jax.jit(grouped_product, static_argnames=("transposed", "implementation"))
outer = jax.jit(grouped_outer, static_argnames="implementation")


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def groups_of(ends: list[int]) -> list[slice]:
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def sizes_of(ends: list[int]) -> jax.Array:
    return jnp.asarray(np.diff([0, *ends]), jnp.int32)


@IMPLEMENTATIONS
@settings(max_examples=20, deadline=None)
@given(ends=CUTS)
def test_each_row_is_multiplied_with_the_matrix_of_its_group(implementation: str, ends: list[int]) -> None:
    rows, matrices = drawn(ROWS, INPUTS), drawn(GROUPS, INPUTS, OUTPUTS)
    expected = np.zeros((ROWS, OUTPUTS), np.float32)
    for group, part in enumerate(groups_of(ends)):
        expected[part] = rows[part] @ matrices[group]
    np.testing.assert_allclose(
        product(rows, matrices, sizes_of(ends), implementation=implementation), expected, atol=1e-5
    )
    turned = np.swapaxes(matrices, 1, 2)
    found = product(rows, turned, sizes_of(ends), transposed=True, implementation=implementation)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@IMPLEMENTATIONS
@settings(max_examples=20, deadline=None)
@given(ends=CUTS)
def test_outer_products_are_added_up_by_group(implementation: str, ends: list[int]) -> None:
    rows, others = drawn(ROWS, INPUTS), drawn(ROWS, OUTPUTS)
    expected = np.stack([rows[part].T @ others[part] for part in groups_of(ends)])
    np.testing.assert_allclose(outer(rows, others, sizes_of(ends), implementation=implementation), expected, atol=1e-5)


def test_rows_are_added_up_by_group() -> None:
    rows, ends = drawn(ROWS, INPUTS), [7, 7, 30, 38]
    expected = [rows[part].sum(0) for part in groups_of(ends)]
    np.testing.assert_allclose(grouped_sum(jnp.asarray(rows), sizes_of(ends)), expected, atol=1e-5)


@pytest.mark.parametrize("implementation", ["blocks", "kernel"])
@settings(max_examples=20, deadline=None)
@given(places=st.lists(st.integers(-70, 140), min_size=ROWS, max_size=ROWS), count=st.sampled_from([1, 64, 100, 128]))
def test_rows_are_added_up_by_place(implementation: str, places: list[int], count: int) -> None:
    """In any order; rows of places that are not there are left out, and a place without rows is zero."""
    rows, expected = drawn(ROWS, INPUTS), np.zeros((count, INPUTS), np.float32)
    for place, row in zip(places, rows, strict=True):
        if 0 <= place < count:
            expected[place] += row
    found = by_place(rows, jnp.asarray(places, jnp.int32), count, implementation=implementation)
    np.testing.assert_allclose(found, expected, atol=1e-5)


by_place = jax.jit(sums_at, static_argnums=2, static_argnames="implementation")


@pytest.mark.parametrize("implementation", ["blocks", "kernel"])
def test_many_narrow_rows_of_one_place_have_a_wide_sum(implementation: str) -> None:
    rows = jnp.ones((4096, 3), jnp.bfloat16)
    found = by_place(rows, jnp.full(4096, 70, jnp.int32), 100, implementation=implementation)
    assert found.dtype == jnp.float32
    assert np.array_equal(np.asarray(found).sum(1), np.where(np.arange(100) == 70, 3 * 4096, 0))


@IMPLEMENTATIONS
def test_sums_of_narrow_rows_are_wide(implementation: str) -> None:
    """In bfloat16, a sum of 4096 ones would stop at 256."""
    rows = jnp.ones((4096, 1), jnp.bfloat16)
    found = outer(rows, rows, jnp.asarray([4096], jnp.int32), implementation=implementation)
    assert found.dtype == jnp.float32
    assert float(found[0, 0, 0]) == 4096


def test_blocks_hold_little_more_than_the_rows() -> None:
    """Memory does not grow with the number of groups times the rows, as that of the dense form does."""
    rows, groups = 4096, 64
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, 16), (groups, 16, 16))]
    compiled = product.lower(*shapes, jax.ShapeDtypeStruct((groups,), jnp.int32), implementation="blocks").compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 16 * rows * 16 * 4
    assert BLOCK * groups < 4 * rows


TILE = Tile(rows=16, columns=16, depth=16, warps=4, stages=2, band=2)
CUTS_OF_TILES = st.lists(st.integers(0, 100), min_size=3, max_size=3).map(sorted)


@settings(max_examples=20, deadline=None)
@given(ends=CUTS_OF_TILES)
def test_the_kernel_computes_groups_of_several_tiles(ends: list[int]) -> None:
    """Neither rows nor features are multiples of a tile, and tiles of one group end where the next one begins."""
    rows, matrices, others = drawn(100, 40), drawn(3, 40, 24), drawn(100, 24)
    expected = np.zeros((100, 24), np.float32)
    for group, part in enumerate(groups_of(ends)):
        expected[part] = rows[part] @ matrices[group]
    for turned, transposed in ((matrices, False), (np.swapaxes(matrices, 1, 2), True)):
        np.testing.assert_allclose(row_tiles(rows, turned, sizes_of(ends), transposed=transposed), expected, atol=1e-4)
    np.testing.assert_allclose(
        outer_tiles(rows, others, sizes_of(ends)),
        np.stack([rows[part].T @ others[part] for part in groups_of(ends)]),
        atol=1e-4,
    )


row_tiles = jax.jit(
    functools.partial(row_products, into=jnp.float32, tile=TILE, interpret=True), static_argnames="transposed"
)
outer_tiles = jax.jit(functools.partial(outer_products, tile=TILE, interpret=True))


def test_programs_of_the_kernel_write_no_row_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs them in order, and the next group would hide a row too many.

    A GPU runs them in any order, here the reverse.
    """
    place = grouped_kernel._place
    monkeypatch.setattr(
        grouped_kernel, "_place", lambda at, down, across, band: place(down * across - 1 - at, down, across, band)
    )
    rows, matrices = drawn(100, 40), drawn(3, 40, 24)
    sizes = jnp.asarray([37, 0, 21], jnp.int32)
    found = row_products(rows, matrices, sizes, transposed=False, into=jnp.float32, tile=TILE, interpret=True)
    expected = np.concatenate([rows[:37] @ matrices[0], rows[37:58] @ matrices[2], np.zeros((42, 24), np.float32)])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("gpu", ["a100", "l4", "h200", "b200", "rtx-pro-6000"])
def test_a_program_for_nvidia_gpus_has_one_kernel_and_no_loop(gpu: str) -> None:
    sizes = jax.ShapeDtypeStruct((8,), jnp.int32)
    rows, matrices, others = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((4096, 256), (8, 256, 128), (4096, 128))
    )
    for call, arguments in (
        (
            lambda *given: grouped_product(*given),
            (rows, matrices),
        ),  # JAX keeps the trace of a function, and each target needs its own
        (lambda *given: grouped_product(*given, transposed=True), (others, matrices)),
        (lambda *given: grouped_outer(*given), (rows, others)),
    ):
        with attending("auto", Target.of(GPUS[gpu])), described(GPUS[gpu]):
            program = jax.jit(call).trace(*arguments, sizes).lower(lowering_platforms=("cuda",)).as_text()
        found = [program.count(word) for word in ("@__gpu$xla.gpu.triton", "stablehlo.while", "stablehlo.dot_general")]
        assert found == [1, 0, 0]


@pytest.mark.parametrize("gpu", ["a100", "l4", "h200", "b200"])
def test_the_gradient_of_an_embedding_is_no_scatter_on_nvidia_gpus(gpu: str) -> None:
    """XLA would sort all its numbers, so that the bits repeat."""
    with attending("auto", Target.of(GPUS[gpu])), described(GPUS[gpu]):
        program = jax.jit(table_gradient()).trace(*TABLE).lower(lowering_platforms=("cuda",)).as_text()
    assert [program.count(word) for word in ("@__gpu$xla.gpu.triton", "stablehlo.scatter")] == [1, 0]


@pytest.mark.parametrize("target", [Target("tpu"), Target("gpu", (7, 5)), Target("cpu")])
def test_the_gradient_of_an_embedding_is_a_scatter_elsewhere(target: Target) -> None:
    with attending("auto", target):
        program = str(jax.make_jaxpr(table_gradient())(*TABLE))
    assert [program.count(word) for word in ("pallas_call", "scatter-add")] == [0, 1]


TOKENS, POSITIONS, EMBED = hax.make_axes(tokens=1000, position=256, embed=32)
TABLE = hax.named(jnp.zeros((1000, 32)), (TOKENS, EMBED)), hax.named(jnp.zeros(256, jnp.int32), POSITIONS)


def table_gradient() -> Callable[[NamedArray, NamedArray], NamedArray]:
    """A function of its own for each target, because JAX keeps the trace of a function."""

    def total(table: NamedArray, indices: NamedArray) -> jax.Array:
        return look_up(table, indices, TOKENS, jnp.bfloat16).astype(jnp.float32).sum().scalar()

    return jax.grad(total)


@pytest.mark.parametrize(("target", "expected"), [(Target("tpu"), 1), (Target("gpu", (7, 5)), 0), (Target("cpu"), 0)])
def test_devices_without_the_kernel_take_another_implementation(target: Target, expected: int) -> None:
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 16), (4, 16, 16))]
    with attending("auto", target):
        program = str(
            jax.make_jaxpr(lambda *given: grouped_product(*given))(*shapes, jax.ShapeDtypeStruct((4,), jnp.int32))
        )
    assert program.count("ragged_dot_general") == expected
    assert "pallas_call" not in program
