"""Statistics of the activations between the blocks of a model, computed in the forward pass of a training step.

Blocks run inside loops, and a step computes their gradients, with recomputation and microbatches. So a number of a
block cannot simply be returned. It leaves as a gradient: the model gets one more argument, the slots, on which its
output does not depend. `tapped` passes an activation on unchanged, and its backward rule returns the statistics of the
activation as the gradient of the slot. The gradient of the slots then has the statistics of each block. Sums over
microbatches and devices are made as for each other gradient, so all statistics are sums. A model without slots has the
same program as before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.axes import is_named
from halcyon.models.stack import Stack
from halcyon.models.statistics import statistics_axis, statistics_of
from halcyon.models.trainable import dotted

Model = TypeVar("Model")


def stacks_of(model: Any) -> dict[str, Stack[Any]]:
    """The stacks of a model, or of its shapes, by their paths, such as ``blocks``."""
    found = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_stack)[0]
    return {dotted(path): node for path, node in found if _is_stack(node)}


def empty_slots(model: Any, *, histograms: bool) -> dict[str, NamedArray]:
    """Slots for all stacks of a model: zeros, float32 [layers, statistics]; see `halcyon.models.statistics.sums_of`."""
    axis = statistics_axis(histograms=histograms)
    return {path: hax.zeros((stack.layers, axis), jnp.float32) for path, stack in stacks_of(model).items()}


def with_slots(model: Model, slots: Mapping[str, NamedArray]) -> Model:
    """`model` with these slots in its stacks, by their paths."""
    if not slots:
        return model

    def one(path: Any, node: Any) -> Any:
        return dataclasses.replace(node, slots=slots.get(dotted(path))) if _is_stack(node) else node

    return jax.tree_util.tree_map_with_path(one, model, is_leaf=lambda node: _is_stack(node) or is_named(node))


def activation_statistics(sums: Mapping[str, NamedArray]) -> dict[str, jax.Array]:
    """The statistics of the outputs of all blocks: ``STATISTIC/PATH``, [layers], a histogram [layers, bins].

    Args:
        sums: The gradient of `empty_slots`.
    """
    return {f"{name}/{path}": value for path, one in sums.items() for name, value in statistics_of(one.array).items()}


def _is_stack(node: Any) -> bool:
    return isinstance(node, Stack)
