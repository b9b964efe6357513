"""The role of each parameter, declared together with the parameter, and which parameters are trained.

The role and the axes of a parameter, not its shape, decide whether it decays, its learning rate, whether an update rule
may treat it as a matrix (Muon), and how its width scales it (muP). For example, the bias of an attention projection has
the axes heads and head size, but is not a matrix. A module declares its arrays with `parameter(role)` instead of a bare
annotation. `parameters` reads the declarations of a model; a parameter without a role is an error.

A parameter that is not trained is frozen: it gets no gradient, no optimizer state and no update. A tree of flags has
the structure of the model, with a bool in the place of each NamedArray. The two parts of a model have its structure
too, with None in the place of the arrays of the other part. So an array has the same path in the model, in its part and
in a checkpoint.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import equinox as eqx
import jax
from haliax import Axis, NamedArray

from halcyon.models.axes import EXPERTS, LAYERS, VOCAB, is_named


class Role(Enum):
    """The roles a parameter can have."""

    MATRIX = "matrix"
    """A linear map between features."""
    EMBEDDING = "embedding"
    """An indexed table of vectors. With tied embeddings it is the output head too."""
    HEAD = "head"
    """The linear map from features to logits, if embeddings are not tied."""
    NORM = "norm"
    """Scale or shift of a normalisation."""
    BIAS = "bias"
    """A constant added to the output of a linear map."""
    ROUTER = "router"
    """The linear map whose output selects experts."""
    EXPERT = "expert"
    """The linear maps of all experts, stacked along the axis of experts."""
    CONVOLUTION = "convolution"
    """The weights of a convolution that mixes positions of each feature alone."""
    ADAPTER = "adapter"
    """A small linear map beside a frozen one."""


PRODUCTS = frozenset({Role.MATRIX, Role.HEAD, Role.ROUTER, Role.EXPERT, Role.ADAPTER})
"""Roles of the weights of matrix products."""

STACKED_AXES = (LAYERS, EXPERTS)
"""Axes along which parameters of one kind are stacked; each index is a separate parameter."""


@dataclass(frozen=True)
class Parameter:
    """The role and the axes of a parameter.

    Attributes:
        role: Its role.
        inputs: The axes that a linear map sums over, or the indexed axis of a table; empty for norms and biases.
        outputs: The axes of the result.
        stacked: The axes along which parameters of this kind are stacked.
        decays: Whether weight decay applies to it. None: its role decides.
        counted: Share of its elements that do not pad the vocabulary, for means over them.
    """

    role: Role
    inputs: tuple[Axis, ...]
    outputs: tuple[Axis, ...]
    stacked: tuple[Axis, ...]
    decays: bool | None = None
    counted: float = 1.0


_DECLARED = "parameter"


def parameter(role: Role | str, *, inputs: str | None = None, **options: Any) -> Any:
    """A field of an ``equinox.Module`` that holds a parameter, or None.

    Args:
        role: The role, or the name of a static field of the module with the role.
        inputs: The name of a static field of the module with the input axis or axes. None: no input axes. Of the other
            axes, those in `STACKED_AXES` are stacked, and the rest are outputs.
        options: Further options of ``equinox.field``, such as the default.
    """
    return eqx.field(metadata={_DECLARED: (role, inputs)}, **options)


def parameters(model: eqx.Module) -> Any:
    """`model` with a `Parameter` in the place of each NamedArray.

    Raises:
        TypeError: An array was declared without a role; the message has its path.
    """
    treedef = jax.tree.structure(model, is_leaf=is_named)
    tokens: int | None = getattr(model, "tokens", None)  # a part of a model has none

    def counted(one: Parameter) -> Parameter:
        vocab = next((axis.size for axis in (*one.inputs, *one.outputs) if axis.name == VOCAB), None)
        return one if tokens is None or vocab is None else dataclasses.replace(one, counted=tokens / vocab)

    return jax.tree.unflatten(treedef, [counted(one) for one in _declared(model, None, None, type(model).__name__)])


def parameter_count(model: Any) -> int:
    """Elements of all parameters of a model, or of its shapes.

    A parameter that is used twice (tied embeddings) counts once.
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model))


def _declared(
    node: Any, owner: eqx.Module | None, declared: tuple[Any, str | None] | None, path: str
) -> Iterator[Parameter]:
    if isinstance(node, NamedArray):
        if declared is None:
            raise TypeError(f"the parameter {path} has no role; declare it with parameter(Role...)")
        role, over = declared
        given: Any = () if over is None else getattr(owner, over)
        whole = {axis.name: axis for axis in ((given,) if isinstance(given, Axis) else given)}
        stacked = tuple(axis for axis in node.axes if axis.name in STACKED_AXES and axis.name not in whole)
        inputs = tuple(whole[axis.name] for axis in node.axes if axis.name in whole)
        outputs = tuple(axis for axis in node.axes if axis not in stacked and axis.name not in whole)
        yield Parameter(role if isinstance(role, Role) else getattr(owner, role), inputs, outputs, stacked)
    elif isinstance(node, eqx.Module):
        for field in dataclasses.fields(node):
            if not field.metadata.get("static", False):
                yield from _declared(
                    getattr(node, field.name), node, field.metadata.get(_DECLARED), f"{path}.{field.name}"
                )
    elif isinstance(node, tuple):
        for number, one in enumerate(node):
            yield from _declared(one, owner, declared, f"{path}[{number}]")
    elif node is not None:
        raise TypeError(
            f"{path} is a {type(node).__name__}; a model holds modules, named arrays, tuples of them and None"
        )


Model = TypeVar("Model")


def split(model: Model, flags: Any = None) -> tuple[Model, Model]:
    """The trained part and the frozen part of a model, or of a tree of its structure.

    Args:
        model: The model, or its shapes.
        flags: True in the place of each trained NamedArray. None: everything is trained.
    """
    if flags is None:
        return model, jax.tree.map(lambda _: None, model, is_leaf=is_named)

    def part(trained: bool) -> Model:
        return jax.tree.map(lambda leaf, flag: leaf if flag is trained else None, model, flags, is_leaf=is_named)

    return part(True), part(False)


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

    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(fnmatch.fnmatchcase(dotted(path), pattern) for pattern in patterns), model, is_leaf=is_named
    )


def dotted(path: Any) -> str:
    """The path of a node of a tree, as checkpoints and documents write it: the names of the fields with dots between
    them.
    """
    return jax.tree_util.keystr(path, simple=True, separator=".")
