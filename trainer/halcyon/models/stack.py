"""Many blocks of the same kind as one module: their parameters have the axis ``layers`` in front, and one scan goes through them.

A program over 80 blocks is then as long, and compiles as fast, as one over a single block.

This is not ``haliax.nn.Stacked``, because that gives every parameter a name inside the scan (for its checkpoint policies), and a named
value counts as computed: the forward pass would write a second copy of all weights for the backward one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import equinox as eqx
import jax
from haliax import Axis, NamedArray

from halcyon.parallel.axes import LAYERS, is_named
from halcyon.parallel.loops import written_out
from halcyon_api.spec.model import Remat

Block = TypeVar("Block", bound=eqx.Module)


class Stack(eqx.Module, Generic[Block]):
    """Blocks whose parameters have the axis `layers` in front."""

    layers: Axis = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)
    stacked: Block

    def fold(self, step: Callable[[Block, NamedArray], NamedArray], x: NamedArray) -> NamedArray:
        """`x` after all blocks: ``x = step(block, x)`` for one block after the other.

        With `remat` ``full``, only the value of `x` between blocks is kept for the backward pass, and a block's inside is computed again.
        """

        def body(x: NamedArray, block: Block) -> tuple[NamedArray, None]:
            return step(block, x), None

        flat = written_out(self.layers.size)
        if self.remat == "full":
            body = jax.checkpoint(body, prevent_cse=flat)  # inside a loop nothing can be shared by mistake
        return jax.lax.scan(body, x, jax.tree.map(_without_layers, self.stacked, is_leaf=is_named), unroll=flat)[0]


def _without_layers(parameter: NamedArray) -> NamedArray:
    """The same array with a nameless dimension in front: a scan takes it off, and what is left fits its names."""
    if parameter.axis_names[0] != LAYERS:
        raise ValueError(f"a stacked parameter has the axis {LAYERS} in front, not {parameter.axis_names}")
    names = parameter.axis_names[1:]
    return jax.tree.unflatten(jax.tree.structure(NamedArray(parameter.array[0], names)), [parameter.array])
