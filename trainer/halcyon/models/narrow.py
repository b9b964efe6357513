"""A model whose matrix products have factors of 8 bits or less; see `halcyon.models.parts.products`."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, TypeVar

import jax

from halcyon.models.model import CausalLM
from halcyon.models.parameters import Role
from halcyon.models.parts.experts import Experts
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.products import of_head
from halcyon_api.spec.narrow_products import NarrowProducts

Model = TypeVar("Model")


def with_products(model: Model, products: NarrowProducts | None) -> Model:
    """`model` with narrow products in all linear maps between features, in experts, and in the output head of a
    decoder.

    Tables, routers, attention and adapters stay as they are. The arrays are the same ones.

    Args:
        model: A model, or the arrays in its place.
        products: The types and scales. None: `model` itself.
    """
    if products is None:
        return model

    def changed(node: Any) -> Any:
        narrow = isinstance(node, Experts) or (isinstance(node, Linear) and node.role is Role.MATRIX)
        return dataclasses.replace(node, products=products) if narrow else node

    found: Any = jax.tree.map(changed, model, is_leaf=lambda node: isinstance(node, Linear | Experts))
    if isinstance(found, CausalLM):
        found = copy.copy(found)
        object.__setattr__(found, "products", of_head(products))  # a user's class may have its own __init__
    return found
