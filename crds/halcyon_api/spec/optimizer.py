"""``spec.optimizer``: the update rule, and the settings that all rules share.

A new rule is a class in `halcyon_api.spec.rules`, and a member here.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from halcyon_api.base import ApiModel, OneOf
from halcyon_api.spec.rules.adafactor import AdafactorSpec
from halcyon_api.spec.rules.adam_variants import AdamHSpec, AdamMiniSpec, AdemamixSpec, AdoptSpec, MarsSpec, ScheduleFreeSpec
from halcyon_api.spec.rules.adamw import AdamWSpec
from halcyon_api.spec.rules.groups import GroupSpec
from halcyon_api.spec.rules.lion import LionSpec
from halcyon_api.spec.rules.sophia import SophiaSpec

Step = Annotated[int, Field(ge=0, le=1_000_000_000)]
DecaySteps = Annotated[int, Field(ge=1, le=1_000_000_000)]


MOMENTS = {"adamw": 2, "lion": 1, "adafactor": 0, "mars": 3, "ademamix": 3, "adamMini": 1}
"""Values in the state of a rule for each parameter; 2 if it is not here."""


class ConstantScheduleSpec(ApiModel):
    """The learning rate rises linearly and then stays."""

    warmup_steps: Step = Field(default=0, description="Steps of linear warm-up from 0.")


class CosineScheduleSpec(ApiModel):
    """The learning rate rises linearly, then falls along half a cosine until the last step."""

    warmup_steps: Step = Field(default=0, description="Steps of linear warm-up from 0.")
    min_ratio: float = Field(default=0.1, ge=0, le=1, description="Last learning rate as a share of the peak.")
    decay_steps: DecaySteps | None = Field(
        default=None,
        description=(
            "Step at which the last learning rate is reached; it stays there. `trainer.steps` may then change. Default: the last step of "
            "the run; `trainer.steps` must then not change after the warm-up."
        ),
    )


class WsdScheduleSpec(ApiModel):
    """Warm-up, stable, decay (Hu et al. 2024): the learning rate rises linearly, stays, and falls linearly over the last steps.

    `trainer.steps` may change until the decay begins.
    """

    warmup_steps: Step = Field(default=0, description="Steps of linear warm-up from 0.")
    decay_steps: DecaySteps = Field(description="Steps of the decay, at the end of the run.")
    min_ratio: float = Field(default=0.0, ge=0, le=1, description="Last learning rate as a share of the peak.")


class ScheduleSpec(OneOf):
    """The learning rate schedule: exactly one member."""

    constant: ConstantScheduleSpec | None = Field(default=None, description="Warm-up, then constant.")
    cosine: CosineScheduleSpec | None = Field(default=None, description="Warm-up, then half a cosine.")
    wsd: WsdScheduleSpec | None = Field(default=None, description="Warm-up, constant, then a linear decay over the last steps.")


def _cosine() -> ScheduleSpec:
    return ScheduleSpec(cosine=CosineScheduleSpec())


class OptimizerSpec(OneOf):
    """Learning rate, schedule, weight decay, clipping, and the update rule: exactly one member."""

    learning_rate: float = Field(default=3e-4, gt=0, description="Peak learning rate.")
    schedule: ScheduleSpec = Field(default_factory=_cosine, description="Learning rate schedule: exactly one member. Default: `cosine`.")
    weight_decay: float = Field(default=0.1, ge=0, description="Decoupled decay of matrices; norms, biases and embeddings do not decay.")
    max_gradient_norm: float = Field(default=1.0, ge=0, description="Global gradient norm to clip to; 0: do not clip.")
    groups: Annotated[list[GroupSpec], Field(max_length=64)] | None = Field(
        default=None, description="Groups of parameters with settings of their own. No parameter may be in two groups."
    )
    adamw: AdamWSpec | None = Field(default=None, description="AdamW.")
    lion: LionSpec | None = Field(default=None, description="Lion.")
    adafactor: AdafactorSpec | None = Field(default=None, description="Adafactor.")
    adopt: AdoptSpec | None = Field(default=None, description="ADOPT.")
    mars: MarsSpec | None = Field(default=None, description="MARS.")
    ademamix: AdemamixSpec | None = Field(default=None, description="AdEMAMix.")
    schedule_free: ScheduleFreeSpec | None = Field(default=None, description="Schedule-free AdamW.")
    adam_mini: AdamMiniSpec | None = Field(default=None, description="Adam-mini.")
    adam_h: AdamHSpec | None = Field(default=None, description="AdamH.")
    sophia: SophiaSpec | None = Field(default=None, description="Sophia.")

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The update rules."""
        return tuple(name for name in super().kinds() if name != "groups")

    @property
    def least_moments(self) -> int:
        """Least number of values that the state has for each parameter."""
        groups = self.groups or ()
        names = [self.kind, *(group.rule for group in groups if group.rule is not None)]
        return 0 if any(group.frozen for group in groups) else min(MOMENTS.get(name, 1) for name in names)

    @property
    def usual_moments(self) -> int:
        """Number of values that the state has for each parameter of a matrix, by the rule of the run."""
        return MOMENTS.get(self.kind, 2)
