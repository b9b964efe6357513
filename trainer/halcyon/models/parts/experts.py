"""Experts: gated MLPs with the same shape, each computed for the tokens that were sent to it.

The code is written for one device (`halcyon.models.partition`), which has some of the experts and, of each, its part of
the features. Products take the weights as they are stored: they cast and then gather them, and gather again for the
backward pass instead of keeping a copy. Gradients of parameters are float32 sums until they are scattered.

The products have factors of 8 bits where a run has them (`halcyon.models.parts.products`). float8 is always e4m3 here:
a kernel for groups multiplies two factors of one type. mxfp8 and nvfp4 have no kernel for groups, so experts keep the
compute type with them. With scales by row, a row has a scale, and each input or output of an expert's matrix. In the
gradient of the matrices, a feature has one scale for the rows of all experts.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import recomputed, with_array
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import Shard
from halcyon.models.parts.coded import Coded
from halcyon.models.parts.grouped_product import group_of_rows, grouped_outer, grouped_product, grouped_sum, rows_at
from halcyon.models.parts.low_rank import LowRank
from halcyon.models.parts.mlp import activate
from halcyon.models.parts.products import Kind, is_narrow, rounded
from halcyon.models.parts.products import Role as ProductRole
from halcyon_api.spec.families.section import Activation
from halcyon_api.spec.narrow_products import NarrowProducts

Gate = Callable[[jax.Array, jax.Array], jax.Array]
"""Combines the outputs of the maps ``gate`` and ``up``, elementwise."""


def silu_gate(gate: jax.Array, up: jax.Array) -> jax.Array:
    """``silu(gate) * up`` (SwiGLU, Shazeer 2020)."""
    return jax.nn.silu(gate) * up


@functools.cache
def gate_of(activation: Activation) -> Gate:
    """``activation(gate) * up``; the same function for the same name, because it is a static field of a model."""
    return silu_gate if activation == "silu" else lambda gate, up: activate(activation, gate) * up


class Experts(eqx.Module):
    """``down(gate(x), up(x))`` of each expert, with or without biases."""

    experts: Axis = eqx.field(static=True)
    embed: Axis = eqx.field(static=True)
    mlp: Axis = eqx.field(static=True)
    combine: Gate = eqx.field(static=True)
    gate: NamedArray | Coded = parameter(Role.EXPERT, inputs="embed")
    up: NamedArray | Coded = parameter(Role.EXPERT, inputs="embed")
    down: NamedArray | Coded = parameter(Role.EXPERT, inputs="mlp")
    gate_bias: NamedArray | None = parameter(Role.BIAS)
    up_bias: NamedArray | None = parameter(Role.BIAS)
    down_bias: NamedArray | None = parameter(Role.BIAS)
    products: NarrowProducts | None = eqx.field(static=True, default=None)
    """Types of the factors; see the module. None: that of the activations."""
    gate_adapter: LowRank | None = None
    up_adapter: LowRank | None = None
    down_adapter: LowRank | None = None

    @jax.named_scope("experts")
    def of_device(self, shard: Shard, rows: jax.Array, sizes: jax.Array) -> jax.Array:
        """This device's part of the outputs: [row, embed]. The sum over the parts of `mlp` is the whole output.

        Call it with the device's parts of the arrays (see `halcyon.models.partition.by_device`).

        Args:
            shard: The device.
            rows: [row, embed], sorted by expert. Rows after the last expert's get zeros.
            sizes: int32 [expert]: the number of rows of each of the device's experts.
        """
        gate, up = (
            _biased(shard, _adapted(shard, self.products, rows, weight, adapter, sizes), bias, sizes)
            for weight, adapter, bias in (
                (self.gate, self.gate_adapter, self.gate_bias),
                (self.up, self.up_adapter, self.up_bias),
            )
        )
        out: Any = _adapted(
            shard, self.products, recomputed(self.combine)(gate, up), self.down, self.down_adapter, sizes
        )
        if self.down_bias is None:
            return out
        is_first = shard.part(self.mlp)[1] == 0  # only one part of the features adds the bias of the sum
        return _biased(shard, out, self.down_bias * jnp.asarray(is_first, self.down_bias.dtype), sizes)


def _adapted(
    shard: Shard,
    products: NarrowProducts | None,
    rows: jax.Array,
    weight: NamedArray | Coded,
    adapter: LowRank | None,
    sizes: jax.Array,
) -> Any:
    """Each row times the matrix of its expert, with the expert's adapter."""
    out: Any = _product(shard, products, rows, weight, sizes)
    if adapter is None:
        return out
    low: Any = _product(shard, None, rows, adapter.down, sizes)
    added: Any = _product(shard, None, low, adapter.up, sizes)
    return (out.astype(jnp.float32) + adapter.scale * added.astype(jnp.float32)).astype(out.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(
    shard: Shard, products: NarrowProducts | None, rows: jax.Array, weight: NamedArray | Coded, sizes: jax.Array
) -> jax.Array:
    """Each row times the matrix of its expert. `weight` is as stored: (experts, inputs, outputs)."""
    return expert_product(products, rows, _whole(shard, weight, rows.dtype), sizes)


def _product_backward(
    shard: Shard,
    products: NarrowProducts | None,
    arguments: tuple[jax.Array, NamedArray | Coded, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, NamedArray | None, None]:
    rows, weight, sizes = arguments
    is_coded = isinstance(weight, Coded)
    if is_coded:
        weight, cotangent = jax.lax.optimization_barrier((weight, cotangent))
    by_rows = expert_product(products, cotangent, _whole(shard, weight, rows.dtype), sizes, transposed=True)
    if is_coded:
        return by_rows, None, None
    by_weight = shard.scattered(with_array(weight, expert_outer(products, rows, cotangent, sizes)))
    return by_rows, by_weight.astype(weight.dtype), None


_product.defvjp(lambda *given: (_product(*given), given[2:]), _product_backward)


def _biased(shard: Shard, rows: Any, bias: NamedArray | None, sizes: jax.Array) -> Any:
    return rows if bias is None else _add_bias(shard, rows, bias, sizes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _add_bias(shard: Shard, rows: jax.Array, bias: NamedArray, sizes: jax.Array) -> jax.Array:
    """Each row plus the bias of its expert, added in float32. `bias` is as stored: (experts, outputs)."""
    of_row = group_of_rows(sizes, len(rows))
    added = rows_at(_whole(shard, bias, jnp.dtype(jnp.float32)), of_row)
    return (rows.astype(jnp.float32) + added).astype(rows.dtype)


def _add_bias_backward(
    shard: Shard, arguments: tuple[NamedArray, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, NamedArray, None]:
    bias, sizes = arguments
    by_bias = shard.scattered(with_array(bias, grouped_sum(cotangent, sizes)))
    return cotangent, by_bias.astype(bias.dtype), None


_add_bias.defvjp(lambda *given: (_add_bias(*given), given[2:]), _add_bias_backward)


def _whole(shard: Shard, weight: NamedArray | Coded, dtype: jnp.dtype) -> jax.Array:
    return shard.gathered(weight.astype(dtype)).array


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
    if products is None or (kind := _kind(products, "inputs" if transposed else "forward")) is None:
        return grouped_product(rows, matrices, sizes, transposed=transposed)
    by_tensor = products.scales == "tensor"
    left, left_scale = rounded(kind, rows, (0, 1) if by_tensor else (1,))
    right, right_scale = rounded(kind, matrices, (0, 1, 2) if by_tensor else (2 if transposed else 1,))
    into = jnp.int32 if kind == "int8" else rows.dtype  # the scales of float8 are powers of 2, so they round nothing
    sums = grouped_product(left, right, sizes, transposed=transposed, into=into).astype(jnp.float32)
    of_output = right_scale.reshape(len(right_scale), -1)
    if not by_tensor:
        of_output = rows_at(of_output, group_of_rows(sizes, len(rows)))
    return (sums * left_scale * of_output).astype(rows.dtype)


def expert_outer(products: NarrowProducts | None, rows: jax.Array, others: jax.Array, sizes: jax.Array) -> jax.Array:
    """The sum of the outer products of each expert's rows; see `halcyon.models.parts.grouped_product.grouped_outer`."""
    if products is None or (kind := _kind(products, "parameters")) is None:
        return grouped_outer(rows, others, sizes)
    over = (0, 1) if products.scales == "tensor" else (0,)
    (left, left_scale), (right, right_scale) = (rounded(kind, one, over) for one in (rows, others))
    return grouped_outer(left, right, sizes) * left_scale[0, :, None] * right_scale[0]


def _kind(products: NarrowProducts, role: ProductRole) -> Kind | None:
    """The type of both factors. None: that of the rows."""
    if products.kind not in ("float8", "int8") or not is_narrow(products, role):
        return None
    return "int8" if products.kind == "int8" else "e4m3"
