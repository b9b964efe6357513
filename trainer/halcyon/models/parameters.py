"""What each parameter is for, said where it is declared.

Whether a parameter decays, and later at which rate it learns, depends on its role and not on its shape: the bias of an attention
projection has the axes heads and head size, and is no matrix for that. A module declares its arrays with `parameter(role)` instead of a
bare annotation; `roles` reads the declarations off a whole model, and a parameter without a role is an error.
"""

from __future__ import annotations

import dataclasses
import math
from enum import Enum
from typing import Any

import equinox as eqx
import jax
from haliax import NamedArray


class Role(Enum):
    """The roles a parameter can have."""

    MATRIX = "matrix"
    """A linear map between features. The only role that weight decay touches."""
    EMBEDDING = "embedding"
    """A table of vectors that is indexed."""
    NORM = "norm"
    """Scale or shift of a normalisation."""
    BIAS = "bias"
    """A constant added to the output of a linear map."""


_ROLE = "role"


def parameter(role: Role) -> Any:
    """A field of an ``equinox.Module`` that holds a parameter of this role, or None."""
    return eqx.field(metadata={_ROLE: role})


def roles(model: eqx.Module) -> Any:
    """The role of every parameter: `model` with a `Role` in the place of each NamedArray.

    Raises:
        TypeError: An array was declared without a role; the message has its path.
    """
    found: list[Role] = []
    _collect(model, None, type(model).__name__, found)
    treedef = jax.tree.structure(model, is_leaf=_is_named)
    return jax.tree.unflatten(treedef, found)


def parameter_count(model: Any) -> int:
    """How many numbers a model consists of. Shapes suffice. A parameter that is used twice (tied embeddings) counts once."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model))


def _is_named(value: object) -> bool:
    return isinstance(value, NamedArray)


def _collect(node: Any, role: Role | None, path: str, found: list[Role]) -> None:
    if isinstance(node, NamedArray):
        if role is None:
            raise TypeError(f"the parameter {path} has no role; declare it with parameter(Role...)")
        found.append(role)
    elif isinstance(node, eqx.Module):
        for field in dataclasses.fields(node):
            if not field.metadata.get("static", False):
                _collect(getattr(node, field.name), field.metadata.get(_ROLE), f"{path}.{field.name}", found)
    elif node is not None:
        raise TypeError(f"{path} is a {type(node).__name__}; a model holds modules, named arrays and None")
