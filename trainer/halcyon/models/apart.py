"""The blocks of a model as separate arrays (apart), for programs that compute few tokens.

A scan over stacked blocks takes one block out of the stack in each iteration. On a CPU, XLA copies its weights for
that. A step that computes one token uses each weight once, so the copy takes longer than the products. With the blocks
apart, a program has a part for each block and reads the weights where they are. It grows with the number of blocks, so
`taken_apart` leaves long stacks as they are.

No weight is copied: on a CPU the arrays of the blocks are parts of the memory of the stack.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from haliax import NamedArray

from halcyon.models.axes import is_named
from halcyon.models.stack import Stack

Model = TypeVar("Model", bound=eqx.Module)

MOST_BLOCKS = 64
"""Blocks of the longest model that is taken apart: a program of more blocks would compile for minutes."""
LEAST_BYTES = 1 << 20
"""Least size of the stacks for which the copies matter.

A smaller model keeps its stacks, because their programs compile faster.
"""


def taken_apart(model: Model) -> Model:
    """`model` with its blocks apart if that makes its programs faster: on one CPU device, with at least `LEAST_BYTES`
    of weights.
    """
    stacks = [node for node in jax.tree.leaves(model, is_leaf=_is_stack) if _is_stack(node)]
    weights = [leaf for stack in stacks for leaf in jax.tree.leaves(stack)]
    fits = (
        sum(stack.layers.size for stack in stacks) <= MOST_BLOCKS
        and sum(leaf.nbytes for leaf in weights) >= LEAST_BYTES
    )
    return blocks_apart(model) if fits and all(_is_on_one_processor(leaf) for leaf in weights) else model


def blocks_apart(model: Model) -> Model:
    """`model` with its blocks apart."""
    return jax.tree.map(lambda node: _stack_apart(node) if _is_stack(node) else node, model, is_leaf=_is_stack)


def _stack_apart(stack: Stack[Any]) -> Stack[Any]:
    leaves, structure = jax.tree.flatten(stack.stacked, is_leaf=is_named)
    parts = [_parts(leaf, stack.layers.size) for leaf in leaves]
    blocks = [jax.tree.unflatten(structure, of_block) for of_block in zip(*parts, strict=True)]
    return dataclasses.replace(stack, stacked=blocks[0], apart=True, further=tuple(blocks[1:]))


def _parts(stacked: NamedArray, count: int) -> list[NamedArray]:
    names = stacked.axis_names[1:]
    if not _is_on_one_processor(stacked.array):
        return [NamedArray(stacked.array[number], names) for number in range(count)]
    whole, device = np.asarray(stacked.array), next(iter(stacked.array.devices()))
    return [NamedArray(jax.device_put(whole[number], device, may_alias=True), names) for number in range(count)]


def _is_on_one_processor(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and len(leaf.devices()) == 1 and next(iter(leaf.devices())).platform == "cpu"


def _is_stack(node: Any) -> bool:
    return isinstance(node, Stack) and not node.apart and node.slots is None
