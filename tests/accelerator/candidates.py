"""Kernels of other libraries for products of groups: measured beside Halcyon's own, so that the figures decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from halcyon.models.parts.tokamax_attention import operation

Product = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""See `halcyon.models.parts.grouped_product.grouped_product`."""


def tokamax_product(name: str) -> Product:
    """Products of groups by tokamax."""

    def product(rows: jax.Array, matrices: jax.Array, sizes: jax.Array) -> jax.Array:
        return operation("ragged_dot.api").ragged_dot(rows, matrices, sizes, implementation=name)

    return product


def haliax_product(rows: jax.Array, matrices: jax.Array, sizes: jax.Array) -> jax.Array:
    """Haliax's products of groups in Triton, with the one function that newer versions of JAX have removed."""
    import importlib

    module = importlib.import_module("haliax.nn.ragged_dot")

    def dot(a: jax.Array, b: jax.Array, trans_a: bool = False, trans_b: bool = False, **options: Any) -> jax.Array:
        numbers = (((0 if trans_a else 1,), (1 if trans_b else 0,)), ((), ()))
        return jax.lax.dot_general(
            a, b, numbers, precision=options.get("precision"), preferred_element_type=jnp.float32
        )

    if "dot" not in vars(module.pl):
        module.pl.dot = dot
    return module.ragged_dot(rows, matrices, sizes, implementation="triton")


PRODUCTS: dict[str, Product] = {
    "tokamax mosaic_gpu": tokamax_product("mosaic_gpu"),
    "Haliax triton": haliax_product,
}
