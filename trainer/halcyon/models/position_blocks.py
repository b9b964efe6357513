"""Sequences in blocks of positions, which a loop computes one after the other to save memory.

A cut array keeps its axis names, with a shorter ``position``, and has one more dimension in front. That dimension has
no name, because a scan removes it: inside the scan the array is an ordinary NamedArray.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import POSITION, is_named
from halcyon.models.elementwise import with_array

Tree = TypeVar("Tree")


def cut(tree: Tree, blocks: int) -> Tree:
    """Cut every NamedArray of `tree` into `blocks` equal runs of positions, in order.

    `blocks` must divide the number of positions.
    """

    def one(x: NamedArray) -> NamedArray:
        at = x.axis_names.index(POSITION)
        shape = x.array.shape
        runs = x.array.reshape(*shape[:at], blocks, shape[at] // blocks, *shape[at + 1 :])
        return with_array(x, jnp.moveaxis(runs, at, 0))

    return jax.tree.map(one, tree, is_leaf=is_named)


def joined(x: NamedArray) -> NamedArray:
    """The inverse of `cut`."""
    at = x.axis_names.index(POSITION)
    runs = jnp.moveaxis(x.array, 0, at)
    return with_array(x, runs.reshape(*runs.shape[:at], -1, *runs.shape[at + 2 :]))


def run(x: NamedArray, whole: Axis, part: Axis, first: jax.Array | int) -> NamedArray:
    """The ``part.size`` elements from `first` on, along the axis `whole`. `first` may be traced."""
    at = x.axis_names.index(whole.name)
    axes = tuple(part if axis.name == whole.name else axis for axis in x.axes)
    return NamedArray(jax.lax.dynamic_slice_in_dim(x.array, first, part.size, at), tuple(axis.name for axis in axes))
