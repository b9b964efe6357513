"""``trainer.remat``: what the forward pass keeps for the backward pass."""

from __future__ import annotations

from typing import Literal

Remat = Literal["none", "dots", "attention", "full", "nested", "offload", "auto"]
"""A remat policy: what the forward pass keeps for the backward pass."""

REMAT: dict[Remat, str] = {
    "none": "all activations",
    "dots": "results of attention and of products with weights",
    "attention": "results of attention, inputs of blocks",
    "full": "inputs of blocks",
    "nested": "inputs of groups of about sqrt(layers) blocks, at the cost of a second recomputation",
    "offload": "inputs of blocks, in the host's memory",
    "auto": "the most that fits in the memory of a device: `none`, `dots`, `attention` or `full`",
}
"""What each remat policy keeps."""

AUTOMATIC_REMAT: tuple[Remat, ...] = ("none", "dots", "attention", "full")
"""The policies that `auto` chooses from, the one with the least recomputation first."""

REMAT_DESCRIPTION = (
    "What the forward pass keeps for the backward pass. "
    f"{'; '.join(f'`{name}`: {kept}' for name, kept in REMAT.items())}."
)
