"""Which parameters of a model are trained. The rest is frozen: it gets no gradient, no optimizer state and no update.

A tree of flags has the structure of the model, with a bool in the place of each NamedArray. The two parts of a model
have its structure too, with None in the place of the arrays of the other part. So an array has the same path in the
model, in its part and in a checkpoint.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any, TypeVar

import jax

from halcyon.models.axes import is_named

Model = TypeVar("Model")


def split(model: Model, flags: Any = None) -> tuple[Model, Model]:
    """The trained part and the frozen part of a model, or of a tree of its structure.

    Args:
        model: The model, or its shapes.
        flags: True in the place of each trained NamedArray. None: everything is trained.
    """
    if flags is None:
        return model, jax.tree.map(lambda _: None, model, is_leaf=is_named)
    parts = (
        jax.tree.map(lambda leaf, flag, part=part: leaf if flag is part else None, model, flags, is_leaf=is_named)
        for part in (True, False)
    )
    trained, frozen = parts
    return trained, frozen


def joined(trained: Model, frozen: Model) -> Model:
    """The model of two parts; the inverse of `split`."""
    return jax.tree.map(
        lambda one, other: other if one is None else one,
        trained,
        frozen,
        is_leaf=lambda leaf: leaf is None or is_named(leaf),
    )


def matching(model: Any, patterns: Sequence[str]) -> Any:
    """`model` with True in the place of each NamedArray whose dotted path matches a pattern of the shell, else
    False.
    """

    def matches(path: Any, leaf: Any) -> bool:
        del leaf
        return any(fnmatch.fnmatchcase(dotted(path), pattern) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(matches, model, is_leaf=is_named)


def dotted(path: Any) -> str:
    """The path of a node of a tree, as checkpoints and documents write it: the names of the fields with dots between
    them.
    """
    return jax.tree_util.keystr(path, simple=True, separator=".")
