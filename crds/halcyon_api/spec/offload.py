"""``trainer.offload``: what is in the host's memory between two updates."""

from __future__ import annotations

from typing import Literal

Offload = Literal["none", "optimizer", "auto"]
"""What is in the host's memory between two updates."""

OFFLOAD: dict[Offload, str] = {
    "none": "nothing",
    "optimizer": "the optimizer state and the average of the parameters, at the cost of a copy in "
    "each direction in each step",
    "auto": "`optimizer` if no step fits into the memory of a device without it, else `none`",
}
"""What each value keeps there."""

AUTOMATIC_OFFLOAD: tuple[Offload, ...] = ("none", "optimizer")
"""The values that `auto` chooses from, the faster one first."""

OFFLOAD_DESCRIPTION = (
    "What is in the host's memory between two updates. "
    f"{'; '.join(f'`{name}`: {kept}' for name, kept in OFFLOAD.items())}."
)
