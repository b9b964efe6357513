"""``spec.recovery.divergence``: the reaction to a step whose loss is not finite or jumps."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from halcyon_api.base import ApiModel, cel


class SpikeSpec(ApiModel):
    """The rule for a step whose loss is far above those of the steps before it."""

    sigmas: Annotated[float, Field(ge=1, le=1000)] = Field(
        description="A loss more than this many standard deviations above the mean of the last steps is a spike."
    )
    gradient_norm_sigmas: Annotated[float, Field(ge=1, le=1000)] | None = Field(
        default=None, description="The same for the gradient norm. Default: only the loss counts."
    )
    window_steps: Annotated[int, Field(ge=8, le=100_000)] = Field(
        default=256,
        description="Number of last steps for mean and standard deviation. The rule applies once there are this many.",
    )
    action: Literal["skip", "stop", "rollback"] = Field(
        default="skip",
        description=(
            "`skip`: drop the update, keep model and optimizer, continue with the next batch. `stop`: stop the run. "
            "`rollback`: see "
            "`nonFinite`."
        ),
    )


class RollbackSpec(ApiModel):
    """How a run goes back."""

    limit: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="Times that the run goes back. Then it stops."
    )
    further_batches: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0, description="Batches to leave out after that of the bad step."
    )


class DivergenceSpec(ApiModel):
    """The reaction to a loss that is not finite or jumps."""

    non_finite: Literal["stop", "skip", "ignore", "rollback"] = Field(
        default="stop",
        description=(
            "When the loss or the gradient norm is infinite or not a number. `stop`: stop the run as `Stalled`, at its "
            "last good "
            "checkpoint. `skip`: drop the update, keep model and optimizer, continue with the next batch. `ignore`: do "
            "nothing. "
            "`rollback`: go back to the last good checkpoint and leave out the batches since then."
        ),
    )
    spike: SpikeSpec | None = Field(
        default=None,
        description="Detect a jump of the loss. The state of this rule is in the checkpoints, so "
        "set it from the start or "
        "never.",
    )

    rollback: RollbackSpec | None = Field(default=None, description="Settings of `rollback`. Default: their defaults.")

    cel_rules: ClassVar = (
        cel(
            "self.?spike.windowSteps == oldSelf.?spike.windowSteps && "
            "self.?spike.?gradientNormSigmas.hasValue() == oldSelf.?spike.?gradientNormSigmas.hasValue()",
            "recovery.divergence.spike must not be added, removed, change its windowSteps, or gain or lose "
            "gradientNormSigmas while the "
            "run exists, because the checkpoints hold its state; other values may change",
            field_path=".spike",
            reason="FieldValueForbidden",
        ),
    )
