"""Many blocks as one module: their parameters have the axis ``layers`` in front, and one scan goes through them.

A program over 80 blocks is then as long, and compiles as fast, as one over a single block. Where unlike blocks alternate (local and global
attention, dense and expert layers), a `Pattern` holds one block of each kind, and the scan goes through repetitions of the pattern.

This is not ``haliax.nn.Stacked``, because that gives every parameter a name inside the scan (for its checkpoint policies), and a named
value counts as computed: the forward pass would write a second copy of all weights for the backward one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
from haliax import Axis, NamedArray

from halcyon.models.axes import LAYERS, is_named
from halcyon.models.partition import unroll
from halcyon_api.spec.families.section import Remat

Block = TypeVar("Block", bound=eqx.Module)


class Pattern(eqx.Module):
    """One block of each kind, in the order in which they repeat. In a stack each has the axis ``layers`` in front: the repetitions."""

    blocks: tuple[eqx.Module, ...]


class Stack(eqx.Module, Generic[Block]):
    """Blocks whose parameters have the axis `layers` in front.

    Attributes:
        layers: The number of blocks; for a `Pattern`, of its repetitions.
        remat: ``full``: between blocks only the carry is kept for the backward pass, and the inside of a block is computed again.
        stacked: The block, or a `Pattern` of blocks.
    """

    layers: Axis = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)
    stacked: Block

    def scan(self, step: Callable[[Any, Any, Any], tuple[Any, Any]], carry: Any, inputs: Any = None) -> tuple[Any, Any]:
        """``carry, output = step(block, carry, input)`` for one block after the other.

        Args:
            step: Computes one block. In a pattern it is called for the blocks of every kind, and may ask for their types.
            carry: What goes from block to block, such as the residual stream: a tree of arrays.
            inputs: What each block gets of its own, such as its part of a cache: a tree of arrays with a nameless dimension of size
                `layers` in front. For a pattern a tuple with one such tree for each kind. None: nothing.

        Returns:
            The last carry, and the outputs of all blocks in the form of `inputs`.
        """
        one = jax.checkpoint(step, prevent_cse=self._flat) if self.remat == "full" else step  # in a loop nothing can be shared by mistake

        def body(carry: Any, at: tuple[Any, Any]) -> tuple[Any, Any]:
            block, given = at
            if not isinstance(block, Pattern):
                return one(block, carry, given)
            outputs: list[Any] = []
            for kind, mine in zip(block.blocks, (None,) * len(block.blocks) if given is None else given, strict=True):
                carry, output = one(kind, carry, mine)
                outputs.append(output)
            return carry, tuple(outputs)

        blocks = jax.tree.map(_without_layers, self.stacked, is_leaf=is_named)
        return jax.lax.scan(body, carry, (blocks, inputs), unroll=self._flat, length=self.layers.size)

    @property
    def _flat(self) -> bool:
        return unroll(self.layers.size)


def _without_layers(parameter: NamedArray) -> NamedArray:
    """The same array with a nameless dimension in front: a scan takes it off, and what remains fits its names."""
    if parameter.axis_names[0] != LAYERS:
        raise ValueError(f"a stacked parameter has the axis {LAYERS} in front, not {parameter.axis_names}")
    names = parameter.axis_names[1:]
    return jax.tree.unflatten(jax.tree.structure(NamedArray(parameter.array[0], names)), [parameter.array])
