"""``spec.optimizer``: the update rule, and the settings that all rules share. A new rule is a class with its own settings, and a member."""

from __future__ import annotations

from pydantic import Field

from halcyon_api.base import ApiModel, OneOf
from halcyon_api.spec.schedule import OtherSchedulesSpec, ScheduleSpec, cosine


class AdamWSpec(ApiModel):
    """AdamW (Loshchilov and Hutter 2019)."""

    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="Decay of the second moment.")
    epsilon: float = Field(default=1e-8, gt=0, description="Added to the root of the second moment.")


class OptimizerSpec(OneOf):
    """Learning rate, schedule, weight decay, clipping, and the update rule: exactly one member."""

    learning_rate: float = Field(default=3e-4, gt=0, description="Peak learning rate.")
    schedule: ScheduleSpec = Field(default_factory=cosine, description="Learning rate schedule: exactly one member. Default: `cosine`.")
    weight_decay: float = Field(default=0.1, ge=0, description="Decoupled decay of matrices; norms, biases and embeddings do not decay.")
    max_gradient_norm: float = Field(default=1.0, ge=0, description="Global gradient norm to clip to; 0: do not clip.")
    other_schedules: OtherSchedulesSpec | None = Field(default=None, description="Schedules besides that of the learning rate.")
    adamw: AdamWSpec | None = Field(default=None, description="AdamW.")

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The update rules; other optional members are common to all."""
        return tuple(name for name in super().kinds() if name != "other_schedules")


MOMENTUM: dict[str, str] = {"adamw": "beta1"}
"""The rules with a momentum that a schedule can set, each with its member for a constant momentum."""
