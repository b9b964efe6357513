"""A model of a few parameters of every form that update rules distinguish, for their tests."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haliax as hax
import numpy as np
from haliax import Axis, NamedArray

from halcyon.models.axes import EMBED, LAYERS, MLP, VOCAB
from halcyon.models.parameters import Role, parameter

EMBED_AXIS, MLP_AXIS, VOCAB_AXIS, LAYERS_AXIS = Axis(EMBED, 4), Axis(MLP, 8), Axis(VOCAB, 8), Axis(LAYERS, 2)


class Tiny(eqx.Module):
    """Two stacked matrices and vectors, a table, and a head."""

    indexed: Axis = eqx.field(static=True)
    inputs: Axis = eqx.field(static=True)
    table: NamedArray = parameter(Role.EMBEDDING, inputs="indexed")
    weight: NamedArray = parameter(Role.MATRIX, inputs="inputs")
    scale: NamedArray = parameter(Role.NORM)
    head: NamedArray = parameter(Role.HEAD, inputs="inputs")


def tiny(noise: np.random.Generator, scale: float = 1.0) -> Any:
    """The model with normal numbers."""

    def of(*axes: Axis) -> NamedArray:
        array: Any = (scale * noise.standard_normal([axis.size for axis in axes])).astype(np.float32)
        return hax.named(array, axes)

    return Tiny(
        VOCAB_AXIS,
        EMBED_AXIS,
        table=of(VOCAB_AXIS, EMBED_AXIS),
        weight=of(LAYERS_AXIS, EMBED_AXIS, MLP_AXIS),
        scale=of(LAYERS_AXIS, EMBED_AXIS),
        head=of(VOCAB_AXIS, EMBED_AXIS),
    )


def plain(model: Any) -> list[tuple[str, np.ndarray]]:
    """Each parameter with its role, without stacks and in float64: matrices are [outputs or tokens, inputs or
    features].
    """
    weight, scale = (np.asarray(one.array, np.float64) for one in (model.weight, model.scale))
    return [
        ("embedding", np.asarray(model.table.array, np.float64)),
        *(("matrix", matrix.T) for matrix in weight),
        *(("norm", vector) for vector in scale),
        ("head", np.asarray(model.head.array, np.float64)),
    ]
