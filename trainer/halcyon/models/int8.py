"""Weights in 8 bits, for inference: each output of a linear map, and each vector of a table, has a scale of its own.

``weight[o, i] = scale[o] * integer[o, i]`` with integers of -127 to 127, so the greatest weight of each output is exact
(symmetric quantisation by channel). In the product the integers are multiplied in the type of the activations, which
holds them exactly, and the sum over the inputs is multiplied by the scale.

On a CPU, XLA would write the converted weights of a product to memory. So a block of outputs is converted at a time,
which stays in the cache of the processor.
"""

import math
from typing import Any, TypeVar

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import LAYERS
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import divided, parts_of
from halcyon.models.parts.coded import LEAST_WEIGHTS
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.weight import add_wide, contract

MOST = 127
"""The greatest integer."""
_BLOCK = 1 << 17
"""Weights of a block on a CPU."""


class Int8Linear(eqx.Module):
    """A linear map with weights in 8 bits; otherwise like `halcyon.models.parts.linear.Linear`.

    Attributes:
        inputs: The axes that it sums over.
        role: The role of the weight.
        rows: int8 (*stacked, *outputs, *inputs).
        scale: float32 (*stacked, *outputs).
        bias: (*stacked, *outputs). None: no bias.
    """

    inputs: tuple[Axis, ...] = eqx.field(static=True)
    role: Role = eqx.field(static=True)
    rows: NamedArray = parameter("role", inputs="inputs")
    scale: NamedArray = parameter(Role.NORM)
    bias: NamedArray | None = parameter(Role.BIAS)

    @property
    def weight(self) -> NamedArray:
        """The weights in float32, for code that uses them without a call."""
        return self.rows.astype(jnp.float32) * self.scale

    def __call__(self, x: NamedArray) -> NamedArray:
        """(..., *inputs) to (..., *outputs)."""
        y = int8_product(x, self.rows, self.scale, self.inputs).astype(x.dtype)
        return divided(y if self.bias is None else add_wide(y, self.bias))


class Int8Embedding(eqx.Module):
    """A table with vectors in 8 bits; otherwise like `halcyon.models.parts.embedding.Embedding`.

    Attributes:
        indexed: The axis of the table that indices count along.
        rows: int8 (*stacked, indexed, embed).
        scale: float32 (*stacked, indexed).
    """

    indexed: Axis = eqx.field(static=True)
    rows: NamedArray = parameter(Role.EMBEDDING, inputs="indexed")
    scale: NamedArray = parameter(Role.NORM)

    @property
    def weight(self) -> NamedArray:
        """The vectors in float32, for code that uses them without a call."""
        return self.rows.astype(jnp.float32) * self.scale

    def __call__(self, indices: NamedArray, dtype: jnp.dtype) -> NamedArray:
        """The vectors of `indices`, in `dtype`."""
        rows, scale = (hax.auto_sharded(x).take(self.indexed, indices) for x in (self.rows, self.scale))
        return divided((rows.astype(jnp.float32) * scale).astype(dtype))


def rounded(weight: NamedArray, over: tuple[Axis, ...]) -> tuple[NamedArray, NamedArray]:
    """Integers and scales of a weight.

    Args:
        weight: Any axes.
        over: The axes that share a scale; they come last in the result.

    Returns:
        int8 (..., *over), and float32 (...).
    """
    others = tuple(axis for axis in weight.axes if axis not in over)
    wide = weight.rearrange((*others, *over)).astype(jnp.float32)
    greatest = hax.max(hax.abs(wide), over)
    scale: Any = hax.where(greatest > 0, greatest / MOST, 1.0)
    return hax.round(wide / scale).astype(jnp.int8).rearrange((*others, *over)), scale


def int8_product(x: NamedArray, rows: NamedArray, scale: NamedArray, over: tuple[Axis, ...]) -> NamedArray:
    """``x . (rows * scale)`` summed over some axes: float32, with the other axes of `x` and then those of `scale`.

    Args:
        x: Activations.
        rows: int8 (*outputs, *over).
        scale: float32 (*outputs).
        over: The axes to sum over.
    """
    outputs, kept = scale.axes, tuple(axis for axis in x.axes if axis not in over)
    if any(parts_of(axis) > 1 for axis in (*outputs, *over)) or jax.default_backend() != "cpu":
        return (contract(x, rows, over, into=jnp.float32) * scale).rearrange((*kept, *outputs))
    size, count = (math.prod(axis.size for axis in axes) for axes in (over, outputs))
    flat = x.rearrange((*kept, *over)).array.reshape(-1, size)
    matrix = rows.rearrange((*outputs, *over)).array.reshape(count, size)
    product = _in_blocks(flat.astype(jnp.float32), matrix)
    axes = (*kept, *outputs)
    return hax.named((product * scale.rearrange(outputs).array.reshape(-1)).reshape([axis.size for axis in axes]), axes)


def _in_blocks(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """``x . matrix^T``: float32 [row, output]."""
    count, size = matrix.shape
    wanted = max(1, count * size // _BLOCK)
    blocks = next(blocks for blocks in range(wanted, 0, -1) if count % blocks == 0)

    def of_block(block: jax.Array) -> jax.Array:
        return jax.lax.dot_general(
            x, block.astype(jnp.float32), (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST
        )

    return jnp.moveaxis(jax.lax.map(of_block, matrix.reshape(blocks, -1, size)), 0, 1).reshape(len(x), count)


Model = TypeVar("Model", bound=eqx.Module)


def quantized(model: Model) -> Model:
    """`model` with the weights of linear maps, the output head and the tables of tokens in 8 bits.

    Norms, biases, routers, experts, convolutions and tables of positions keep their types. Maps with adapters do too:
    merge them first.

    Args:
        model: A model.
    """
    vocabulary, compiled = getattr(model, "vocab", None), jax.jit(rounded, static_argnums=1)

    def changed(node: Any) -> Any:
        if isinstance(node, Linear) and _is_taken(node):
            rows, scale = compiled(node.weight, node.inputs)
            return Int8Linear(node.inputs, node.role, rows, scale, node.bias)
        if isinstance(node, Embedding) and node.indexed == vocabulary:
            embed = tuple(axis for axis in node.weight.axes if axis.name not in (node.indexed.name, LAYERS))
            return Int8Embedding(node.indexed, *compiled(node.weight, embed))
        return node

    return jax.tree.map(changed, model, is_leaf=lambda node: isinstance(node, Linear | Embedding))


def _is_taken(linear: Linear) -> bool:
    weights = math.prod(axis.size for axis in linear.weight.axes if axis.name != LAYERS)
    return linear.role in (Role.MATRIX, Role.HEAD) and linear.adapter is None and weights >= LEAST_WEIGHTS


def stored_bytes(model: Any) -> int:
    """Bytes of all parameters of a model."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model))
