"""The products of experts, with factors of 8 bits where a run has them; see `halcyon.models.parts.products`.

float8 is always e4m3 here: a kernel for groups multiplies two factors of one type. mxfp8 and nvfp4 have no kernel for
groups, so experts keep the compute type with them.

With scales by row, a row has a scale, and each input or output of an expert's matrix. In the gradient of the matrices,
a feature has one scale for the rows of all experts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from halcyon.models.parts.grouped_product import group_of_rows, grouped_outer, grouped_product
from halcyon.models.parts.products import Kind, is_narrow, rounded
from halcyon_api.spec.narrow_products import NarrowProducts


def expert_product(
    products: NarrowProducts | None, rows: jax.Array, matrices: jax.Array, sizes: jax.Array, *, transposed: bool = False
) -> jax.Array:
    """The product of each row with the matrix of its expert; see
    `halcyon.models.parts.grouped_product.grouped_product`.

    Args:
        products: The types and scales. None: the type of `rows`.
        rows: [row, input], sorted by expert.
        matrices: [expert, input, output]; [expert, output, input] if `transposed`.
        sizes: int32 [expert]: the number of rows of each expert.
        transposed: Whether to use the transposed matrices, as the gradient of the rows does.
    """
    if products is None or not _has_kernel(products) or not is_narrow(products, "inputs" if transposed else "forward"):
        return grouped_product(rows, matrices, sizes, transposed=transposed)
    by_tensor, kind = products.scales == "tensor", _kind(products)
    left, left_scale = rounded(kind, rows, (0, 1) if by_tensor else (1,))
    right, right_scale = rounded(kind, matrices, (0, 1, 2) if by_tensor else (2 if transposed else 1,))
    into = jnp.int32 if kind == "int8" else rows.dtype  # the scales of float8 are powers of 2, so they round nothing
    sums = grouped_product(left, right, sizes, transposed=transposed, into=into).astype(jnp.float32)
    of_output = right_scale.reshape(len(right_scale), -1)
    if not by_tensor:
        of_output = jnp.take(of_output, group_of_rows(sizes, len(rows)), axis=0, mode="fill", fill_value=0)
    return (sums * left_scale * of_output).astype(rows.dtype)


def expert_outer(products: NarrowProducts | None, rows: jax.Array, others: jax.Array, sizes: jax.Array) -> jax.Array:
    """The sum of the outer products of each expert's rows; see `halcyon.models.parts.grouped_product.grouped_outer`."""
    if products is None or not _has_kernel(products) or not is_narrow(products, "parameters"):
        return grouped_outer(rows, others, sizes)
    kind, over = _kind(products), (0, 1) if products.scales == "tensor" else (0,)
    (left, left_scale), (right, right_scale) = (rounded(kind, one, over) for one in (rows, others))
    return grouped_outer(left, right, sizes) * left_scale[0, :, None] * right_scale[0]


def _has_kernel(products: NarrowProducts) -> bool:
    return products.kind in ("float8", "int8")


def _kind(products: NarrowProducts) -> Kind:
    return "int8" if products.kind == "int8" else "e4m3"
