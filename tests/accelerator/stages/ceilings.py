"""What the card itself can do: bytes a second through its memory, and the matrix products of its libraries."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from tests.accelerator.measure import Options, milliseconds, peak_flops
from tests.accelerator.rows import Row


def rows(options: Options) -> Iterator[Row]:
    """Memory first, then products in each type that the card has."""
    size = options.pick(2**30, 2**20)
    x = jax.random.normal(jax.random.key(0), (size // 4,), jnp.float32)
    add = jax.jit(lambda x: x + 1.0)
    taken = milliseconds(lambda: add(x))
    yield {"what": "memory: read an array and write another", "ms": taken, "GB/s": 2 * size / taken / 1e6}
    width = options.pick(8192, 256)
    for name, dtype in (("bfloat16", jnp.bfloat16), ("float8", jnp.float8_e4m3fn), ("float32", jnp.float32)):
        left, right = (
            jax.random.normal(jax.random.key(seed), (width, width), jnp.float32).astype(dtype) for seed in (1, 2)
        )
        if name == "float8":
            right = right.T  # the library's products in 8 bits want this order
            numbers = (((1,), (1,)), ((), ()))
        else:
            numbers = (((1,), (0,)), ((), ()))
        precision = jax.lax.Precision.HIGHEST if name == "float32" else None
        out = jnp.float32 if name == "float32" else jnp.bfloat16

        def product(
            x: jax.Array, y: jax.Array, numbers: tuple = numbers, precision: object = precision, out: object = out
        ) -> jax.Array:
            return jax.lax.dot_general(x, y, numbers, precision=precision, preferred_element_type=out)

        row: Row = {"what": f"product of {width} x {width} matrices, {name}"}
        try:
            compiled = jax.jit(product)
            taken = milliseconds(lambda compiled=compiled, left=left, right=right: compiled(left, right))
        except Exception as error:
            yield row | {"error": str(error)[:200]}
            continue
        flops = 2 * width**3 / taken * 1e3
        peak = peak_flops()
        yield row | {
            "ms": taken,
            "TFLOP/s": flops / 1e12,
            "of the bfloat16 peak": None if peak is None else flops / peak,
        }
