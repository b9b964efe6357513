"""Products of rows with the matrix of their group, against one product for each group."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.models.parts import grouped_product as grouped
from halcyon.models.parts.grouped_product import grouped_outer, grouped_product, grouped_sum

ROWS, INPUTS, OUTPUTS, GROUPS = 40, 5, 3, 4

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["blocks", "ragged"])
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
    np.testing.assert_allclose(product(rows, matrices, sizes_of(ends), implementation=implementation), expected, atol=1e-5)
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
    assert grouped.BLOCK * groups < 4 * rows
