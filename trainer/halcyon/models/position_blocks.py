"""Cutting sequences into blocks of positions that ``jax.lax.scan`` computes one after the other, to save memory.

A cut array keeps its axis names, with ``position`` shorter, and has one more dimension in front that no name is given to, because a scan
takes it off again: inside the scan the array is an ordinary NamedArray.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.elementwise import with_array
from halcyon.parallel.axes import POSITION, is_named

Tree = TypeVar("Tree")


def cut(tree: Tree, blocks: int) -> Tree:
    """Every NamedArray of `tree` as `blocks` equal runs of positions, in order. The number of positions must be a multiple."""

    def one(x: NamedArray) -> NamedArray:
        at = x.axis_names.index(POSITION)
        shape = x.array.shape
        runs = x.array.reshape(*shape[:at], blocks, shape[at] // blocks, *shape[at + 1 :])
        return with_array(x, jnp.moveaxis(runs, at, 0))

    return jax.tree.map(one, tree, is_leaf=is_named)


def joined(x: NamedArray) -> NamedArray:
    """What `cut` took apart, together again."""
    at = x.axis_names.index(POSITION)
    runs = jnp.moveaxis(x.array, 0, at)
    return with_array(x, runs.reshape(*runs.shape[:at], -1, *runs.shape[at + 2 :]))
