"""``spec.telemetry.watch``: numbers of each parameter at intervals."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from halcyon_api.base import ApiModel

Watched = Literal["gradients", "parameters", "updates", "activations"]


class WatchSpec(ApiModel):
    """Norm and RMS of each parameter, of its gradient before clipping, of its update, and of each block's output."""

    every_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        default=10, description="Steps between two watched ones. A watched step is a program of its own."
    )
    what: Annotated[list[Watched], Field(min_length=1, max_length=4)] = Field(
        default=["gradients", "parameters", "updates"],
        description="`updates` adds their ratio to the parameters; `activations` are the outputs of blocks.",
    )
    histograms: bool = Field(
        default=False, description="Also histograms of the magnitudes, for the history and for hooks."
    )

    def is_due(self, step: int) -> bool:
        """Whether a step is watched. `step` counts from 1."""
        return step % self.every_steps == 0
