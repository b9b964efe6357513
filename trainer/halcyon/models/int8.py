"""A model with weights in 8 bits, for inference; see `halcyon.models.parts.int8`."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import equinox as eqx
import jax

from halcyon.models.axes import LAYERS
from halcyon.models.parameters import Role
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.int8 import Int8Embedding, Int8Linear, rounded
from halcyon.models.parts.linear import Linear

Model = TypeVar("Model", bound=eqx.Module)

LEAST_WEIGHTS = 4096
"""Linear maps with fewer weights, such as gates, keep their type: they need little memory, and their errors have large
effects.
"""


def quantized(model: Model, *, integers: bool = False) -> Model:
    """`model` with the weights of linear maps, the output head and the tables of tokens in 8 bits.

    Norms, biases, routers, experts, convolutions and tables of positions keep their types. Maps with adapters do too:
    merge them first.

    Args:
        model: A model.
        integers: Whether activations are rounded to 8 bits in these products.
    """
    vocabulary = getattr(model, "vocab", None)

    def changed(node: Any) -> Any:
        if isinstance(node, Linear) and _is_taken(node):
            rows, scale = jax.jit(rounded, static_argnums=1)(node.weight, node.inputs)
            return Int8Linear(node.inputs, node.role, integers, rows, scale, node.bias)
        if isinstance(node, Embedding) and node.indexed == vocabulary:
            embed = tuple(axis for axis in node.weight.axes if axis.name not in (node.indexed.name, LAYERS))
            return Int8Embedding(node.indexed, integers, *jax.jit(rounded, static_argnums=1)(node.weight, embed))
        return node

    return jax.tree.map(changed, model, is_leaf=lambda node: isinstance(node, Linear | Embedding))


def _is_taken(linear: Linear) -> bool:
    weights = math.prod(axis.size for axis in linear.weight.axes if axis.name != LAYERS)
    return linear.role in (Role.MATRIX, Role.HEAD) and linear.adapter is None and weights >= LEAST_WEIGHTS


def stored_bytes(model: Any) -> int:
    """Bytes of all parameters of a model."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(model))
