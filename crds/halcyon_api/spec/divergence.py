"""``spec.recovery.divergence``: what happens when a step's numbers say that the run is lost, or is about to be."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from halcyon_api.base import ApiModel, cel


class SpikeSpec(ApiModel):
    """A step whose loss stands out from those before it."""

    sigmas: Annotated[float, Field(ge=1, le=1000)] = Field(
        description="How many standard deviations above the mean of the last steps a loss must be to count as a spike."
    )
    window_steps: Annotated[int, Field(ge=8, le=100_000)] = Field(
        default=256, description="Steps that mean and deviation are taken of; the rule begins when there are so many."
    )
    action: Literal["skip", "stop"] = Field(
        default="skip",
        description="`skip`: the update is dropped, model and optimizer stay as they were, the next batch follows. `stop`: the run stops.",
    )


class DivergenceSpec(ApiModel):
    """What happens when the loss is not a number, or jumps."""

    non_finite: Literal["stop", "skip", "ignore"] = Field(
        default="stop",
        description=(
            "When loss or gradient norm are infinite or not a number. `stop`: the run stops as `Stalled` at its last good checkpoint. "
            "`skip`: the update is dropped, model and optimizer stay as they were, the next batch follows. `ignore`: nothing."
        ),
    )
    spike: SpikeSpec | None = Field(
        default=None,
        description="When a loss stands out. What the rule remembers is part of the checkpoint, so it is given from the start or never.",
    )

    cel_rules: ClassVar = (
        cel(
            "has(self.spike) == has(oldSelf.spike) && (!has(self.spike) || self.spike.windowSteps == oldSelf.spike.windowSteps)",
            "recovery.divergence.spike must not come, go or change its windowSteps while the run exists, for the checkpoints hold what it "
            "remembers; sigmas and action may change",
            field_path=".spike",
            reason="FieldValueForbidden",
        ),
    )
