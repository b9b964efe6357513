"""The experts of one layer of Qwen3-30B-A3B (128 experts of 2048 x 768, 8 for each token) on 32,768 tokens, by several
products.

``auto`` is what the trainer takes on this device, ``float8`` the same with ``precision.products: float8``, where the
device has it, and ``blocks`` the loop over blocks of rows. The groups are uneven: the routes are drawn with weights
that fall from the first expert to the last, and one expert gets no row. Errors are relative to the same products in
float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.models.parts.experts import expert_outer, expert_product
from halcyon.models.parts.grouped_product import grouped_outer, grouped_product
from halcyon_api.hardware import narrow_types
from halcyon_api.spec.narrow_products import NarrowProducts
from tests.accelerator.measure import Options, brief, error_of, milliseconds
from tests.accelerator.rows import Row

Product = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""See `halcyon.models.parts.grouped_product.grouped_product`."""


def with_gradients(product: Callable[..., jax.Array], outer: Callable[..., jax.Array]) -> Product:
    """The products of groups, with both gradients.

    Args:
        product: See `halcyon.models.parts.grouped_product.grouped_product`.
        outer: See `halcyon.models.parts.grouped_product.grouped_outer`.
    """

    @jax.custom_vjp
    def multiply(rows: jax.Array, matrices: jax.Array, sizes: jax.Array) -> jax.Array:
        return product(rows, matrices, sizes)

    def backward(kept: Any, cotangent: jax.Array) -> Any:
        rows, matrices, sizes = kept
        return (
            product(cotangent, matrices, sizes, transposed=True),
            outer(rows, cotangent, sizes).astype(matrices.dtype),
            None,
        )

    multiply.defvjp(lambda rows, matrices, sizes: (product(rows, matrices, sizes), (rows, matrices, sizes)), backward)
    return multiply


def products() -> dict[str, Product]:
    """The products to measure, the trainer's first. The loop over blocks is last, because it is slow."""
    blocks = [functools.partial(one, implementation="blocks") for one in (grouped_product, grouped_outer)]
    found = {"auto": with_gradients(grouped_product, grouped_outer)}
    device = jax.devices()[0]
    if "float8" in narrow_types(device.device_kind, str(getattr(device, "compute_capability", ""))):
        float8 = [functools.partial(one, NarrowProducts.of("float8")) for one in (expert_product, expert_outer)]
        found["float8"] = with_gradients(*float8)
    return {**found, "blocks": with_gradients(*blocks)}


def layer(product: Product, rows: jax.Array, weights: tuple[jax.Array, ...], sizes: jax.Array) -> jax.Array:
    """The gated MLP of each row's expert."""
    gate, up, down = weights
    return product(jax.nn.silu(product(rows, gate, sizes)) * product(rows, up, sizes), down, sizes)


def rows(options: Options) -> Iterator[Row]:
    """A row for each product, and one for a single product of as many operations."""
    experts, width, mlp, tokens, each = options.pick((128, 2048, 768, 32_768, 8), (8, 64, 32, 64, 2))
    noise = np.random.default_rng(0)
    chance = np.linspace(2.0, 0.5, experts)
    chance[experts // 2] = 0
    sizes = jnp.asarray(noise.multinomial(tokens * each, chance / chance.sum()).astype(np.int32))
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = ((experts, width, mlp), (experts, width, mlp), (experts, mlp, width))
    weights = tuple(
        (jax.random.normal(key, shape, jnp.float32) * shape[1] ** -0.5).astype(jnp.bfloat16)
        for key, shape in zip(keys, shapes, strict=False)
    )
    x, by = (jax.random.normal(key, (tokens * each, width), jnp.float32).astype(jnp.bfloat16) for key in keys[3:])
    operations = 2 * tokens * each * width * mlp * 3
    taken = _dense(tokens * each, width, mlp)
    yield {
        "product": "one matrix for all rows",
        "forward and backward ms": taken,
        "TFLOP/s": 3 * operations / taken / 1e9,
    }
    expected = _reference(x, weights, sizes, by)
    for name, product in products().items():

        def loss(x: Any, weights: Any, product: Product = product) -> Any:
            out = layer(product, x, weights, sizes)
            return jnp.sum(out.astype(jnp.float32) * by.astype(jnp.float32)), out

        try:
            forward = jax.jit(lambda x, weights, product=product: layer(product, x, weights, sizes))
            both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
            (_, out), found = both(x, weights)
            errors = [error_of(one, right) for one, right in zip((out, found[0], *found[1]), expected, strict=True)]
            again = both(x, weights)
            same = all(
                bool(jnp.array_equal(one, other))
                for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(again[1]), strict=True)
            )
            del out, found, again
            times = [milliseconds(lambda run=run: run(x, weights), most=10) for run in (forward, both)]
        except Exception as error:
            yield {"product": name, "error": brief(error)}
            continue
        yield {
            "product": name,
            "forward ms": times[0],
            "forward and backward ms": times[1],
            "TFLOP/s": 3 * operations / times[1] / 1e9,
            "error of values": errors[0],
            "largest error of a gradient": max(errors[1:]),
            "same bits": same,
        }


def _dense(rows: int, width: int, mlp: int) -> float:
    """Milliseconds of the same products with one matrix each, forward and backward."""
    x = jax.random.normal(jax.random.key(5), (rows, width), jnp.float32).astype(jnp.bfloat16)
    weights = [
        jax.random.normal(jax.random.key(6), shape, jnp.float32).astype(jnp.bfloat16)
        for shape in ((width, mlp), (width, mlp), (mlp, width))
    ]

    def loss(x: Any, weights: Any) -> Any:
        gate, up, down = weights
        return jnp.sum(((jax.nn.silu(x @ gate) * (x @ up)) @ down).astype(jnp.float32))

    run = jax.jit(jax.grad(loss, (0, 1)))
    return milliseconds(lambda: run(x, weights), most=10)


def _reference(x: jax.Array, weights: tuple[jax.Array, ...], sizes: jax.Array, by: jax.Array) -> tuple[jax.Array, ...]:
    """Values and gradients in float32: one expert after the other, each with its own rows, padded to the largest
    group.
    """
    ends = np.cumsum(np.asarray(sizes))
    most = int(np.max(np.asarray(sizes)))
    wide = jnp.pad(x, ((0, most), (0, 0))), jnp.pad(by, ((0, most), (0, 0)))

    @jax.jit
    def of_expert(gate: Any, up: Any, down: Any, rows: Any, cotangent: Any, count: Any) -> Any:
        mine = (jnp.arange(most) < count)[:, None]

        def out(rows: Any, *matrices: Any) -> Any:
            gate, up, down = (matrix.astype(jnp.float32) for matrix in matrices)
            dot = lambda left, right: jnp.dot(left, right, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
            return dot(jax.nn.silu(dot(rows, gate)) * dot(rows, up), down)

        value, pull = jax.vjp(
            out,
            jnp.where(mine, rows.astype(jnp.float32), 0),
            gate.astype(jnp.float32),
            up.astype(jnp.float32),
            down.astype(jnp.float32),
        )
        return value, *pull(jnp.where(mine, cotangent.astype(jnp.float32), 0))

    parts: list[list[Any]] = [[], [], [], [], []]
    for number, end in enumerate(ends):
        count = int(sizes[number])
        begin = int(end) - count
        found = of_expert(
            *(weight[number] for weight in weights),
            *(jax.lax.dynamic_slice_in_dim(one, begin, most) for one in wide),
            count,
        )
        for place, one in enumerate(found):
            parts[place].append(one[:count] if place < 2 else one)
    return tuple(jnp.concatenate(part) if place < 2 else jnp.stack(part) for place, part in enumerate(parts))
