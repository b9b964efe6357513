"""The declaration of how parameters lie in the tensors of a file.

A family lists its tensors. Each has a name with the numbers of stacked axes in braces, and one piece or more: the
parameters that it holds. A piece says, for each dimension of the tensor, which axes of the parameter are merged into
it, the outermost first. This covers transposed matrices, heads that are merged or split, stacked layers and experts,
fused and interleaved tensors:

    tensor("model.norm.weight", "norm.weight", EMBED)
    tensor("model.layers.{layers}.self_attn.q_proj.weight", "blocks.stacked.attention.query.weight", (KV_HEADS, Q_HEADS,
    HEAD_SIZE), EMBED) Tensor("h.{layers}.attn.c_attn.weight", (piece(query, EMBED, (HEADS, HEAD_SIZE)), piece(key, …),
    piece(value, …)), Join(1))

A parameter has the bits of its tensor: no value is computed, so import and export are inverse to each other. A norm
that multiplies by ``1 + weight`` keeps ``weight`` as the file has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Order = Callable[[int], np.ndarray]
"""For an axis of a given size: the index in the file of each of our indices."""


@dataclass(frozen=True)
class Piece:
    """A parameter in a tensor.

    Attributes:
        path: Path of the parameter in the model, such as ``blocks.stacked.attention.query.weight``.
        dimensions: For each dimension of the tensor, the names of the parameter's axes that are merged into it, the
            outermost first. An empty tuple is a dimension of size 1. Stacked axes that are in the name of the tensor
            are left out.
        orders: The order of an axis in the file, by name, where it differs from the parameter's. It must be the only
            axis, or the last one, of its dimension.
    """

    path: str
    dimensions: tuple[tuple[str, ...], ...]
    orders: Mapping[str, Order] = field(default_factory=dict)


@dataclass(frozen=True)
class Join:
    """How the pieces of a fused tensor are joined.

    Attributes:
        dimension: The dimension along which the pieces are concatenated.
        within: The number of axes of that dimension that all pieces share, the outermost first; the pieces are
            concatenated within each of their indices. 0: one piece after the other. All axes: the pieces alternate
            (interleaved).
    """

    dimension: int = 0
    within: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file, or one for each index of the stacked axes that its name has in braces.

    Attributes:
        name: Name in the file; ``{layers}`` stands for a number of the axis ``layers``.
        pieces: The parameters that it holds; with more than one, in the order of `join`.
        join: How several pieces are joined.
        numbers: The numbers in the name for each index of a stacked axis, where they are not 0, 1, 2, …: in a pattern
            of six kinds of blocks, kind 1 has ``{"layers": range(1, layers, 6)}``.
    """

    name: str
    pieces: tuple[Piece, ...]
    join: Join = Join()
    numbers: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Constant:
    """A tensor of the file that holds one number and no parameter, or one such tensor for each layer.

    An export writes it, because a reader may have no value of its own. A file may lack it.

    Attributes:
        name: Name in the file; ``{layers}`` stands for the number of a layer.
        value: The number. The model is computed with it, so a file with another one is rejected.
        layers: The numbers of the layers.
    """

    name: str
    value: float
    layers: Sequence[int]


@dataclass(frozen=True)
class Tensors:
    """All tensors of a model.

    Attributes:
        tensors: Every parameter of the model is a piece of exactly one of them.
        constants: The tensors that hold no parameter.
        ignored: Regular expressions of whole names that a file may have and that are no parameters, such as buffers.
        ignored_layers: Regular expressions of the beginnings of names, each with an end. Tensors whose names have such
            a beginning are ignored if the files also have the tensor with this beginning and end.
        other_names: Regular expressions and replacements that turn a name of a file into a name of `tensors`, for files
            that spell it in another way. The first that matches the beginning of the name is applied.
    """

    tensors: tuple[Tensor, ...]
    constants: tuple[Constant, ...] = ()
    ignored: tuple[str, ...] = ()
    ignored_layers: tuple[tuple[str, str], ...] = ()
    other_names: tuple[tuple[str, str], ...] = ()


def piece(path: str, *dimensions: str | tuple[str, ...], orders: Mapping[str, Order] | None = None) -> Piece:
    """A piece; a dimension of one axis may be given by its name."""
    return Piece(path, tuple((one,) if isinstance(one, str) else one for one in dimensions), orders or {})


def tensor(
    name: str, path: str, *dimensions: str | tuple[str, ...], numbers: Mapping[str, Sequence[int]] | None = None
) -> Tensor:
    """A tensor that holds one parameter."""
    return Tensor(name, (piece(path, *dimensions),), numbers=numbers or {})


BESIDE_IMAGES = (
    (r"(model\.language_model|language_model\.model)\.", "model."),
    (r"language_model\.lm_head\.", "lm_head."),
)
"""The names of a text model in the files of a model with images; for `Tensors.other_names`."""
