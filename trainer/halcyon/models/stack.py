"""Many blocks as one module: their parameters have the axis ``layers`` in front, and one scan computes the blocks in order.

So a program with 80 blocks has the same length, and compiles as fast, as one with a single block. If blocks of several kinds alternate
(local and global attention, dense and expert layers), a `Pattern` has one block of each kind, and the scan repeats the pattern.

``haliax.nn.Stacked`` is not used: it names every parameter inside the scan (for its checkpoint policies), and JAX treats a named value as
computed. The forward pass would then write a second copy of all weights for the backward pass.
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
    """One block of each kind, in the order of computation. In a stack, each has the axis ``layers`` in front: the repetitions."""

    blocks: tuple[eqx.Module, ...]


class Stack(eqx.Module, Generic[Block]):
    """Blocks whose parameters have the axis `layers` in front.

    Attributes:
        layers: The number of blocks; for a `Pattern`, of its repetitions.
        remat: The remat policy. ``full``: only the carry between blocks is kept for the backward pass, which computes each block again.
        stacked: The block, or a `Pattern` of blocks.
    """

    layers: Axis = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)
    stacked: Block

    def scan(self, step: Callable[[Any, Any, Any], tuple[Any, Any]], carry: Any, inputs: Any = None) -> tuple[Any, Any]:
        """Compute ``carry, output = step(block, carry, input)`` for each block in order.

        Args:
            step: Computes one block. In a pattern it is called for the blocks of every kind, and may check their types.
            carry: A tree of arrays that goes from block to block, such as the residual stream.
            inputs: A tree of arrays with the input of each block, such as its part of a cache; they have a dimension without a name, of
                size `layers`, in front. For a pattern: a tuple with one such tree for each kind. None: no inputs.

        Returns:
            The last carry, and the outputs of all blocks in the form of `inputs`.
        """
        # In a loop, XLA cannot merge the forward and the backward computation, so only an unrolled one needs `prevent_cse`.
        one = jax.checkpoint(step, prevent_cse=self._flat) if self.remat == "full" else step

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
    """The same array without the name of its first dimension: a scan removes this dimension, and the rest matches the names."""
    if parameter.axis_names[0] != LAYERS:
        raise ValueError(f"a stacked parameter has the axis {LAYERS} in front, not {parameter.axis_names}")
    names = parameter.axis_names[1:]
    return jax.tree.unflatten(jax.tree.structure(NamedArray(parameter.array[0], names)), [parameter.array])
