"""How the blocks of a decoder attend: each has a kind, and the blocks of one kind share a mask and a table of
rotations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haliax import Axis

from halcyon.models.model import Inputs
from halcyon.models.parts.masks import Mask, Window, causal
from halcyon.models.parts.rotary import Rope, RotaryTable, rotary_table


@dataclass(frozen=True)
class BlockKind:
    """How a block attends.

    Attributes:
        rope: The rotation of queries and keys.
        window: Positions that a query sees, its own included. None: all earlier ones.
    """

    rope: Rope
    window: int | None = None


def masks_and_rotations(
    kinds: Sequence[BlockKind], inputs: Inputs, position: Axis, rotated: Axis
) -> dict[BlockKind, tuple[Mask, RotaryTable]]:
    """The mask and the rotations of each kind.

    Args:
        kinds: The kinds of the blocks.
        inputs: The inputs of the model, for positions and segments.
        position: The axis of the positions of the tokens.
        rotated: Features of a head that the rotations are for.
    """
    everything = causal(inputs.segments)
    masks = {
        window: everything if window is None else everything & Window(window)
        for window in {kind.window: None for kind in kinds}
    }
    ropes = {
        rope: rotary_table(position, rotated, rope, inputs.positions) for rope in {kind.rope: None for kind in kinds}
    }
    return {kind: (masks[kind.window], ropes[kind.rope]) for kind in kinds}
