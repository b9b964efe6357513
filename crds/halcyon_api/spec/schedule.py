"""``spec.optimizer.schedule`` and ``otherSchedules``: what changes from step to step.

All are pure functions of the step.
"""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from halcyon_api.base import ApiModel, AtLeastOne, OneOf, Ratio, Rule, RuledModel, StepCount, StepNumber, optional

Share = NonNegativeFloat
"""Up to 1: a fraction of a whole. Above 1: steps."""
CycleStep = AtLeastOne
MAX_CYCLES = 256

Shape = Literal[
    "constant",
    "linear",
    "cosine",
    "squareRoot",
    "inverseSquareRoot",
    "inverseSquareRootDecay",
    "inverse",
    "polynomial",
    "power",
    "exponential",
]
FirstRate = Literal["atStart", "afterOneStep"]
ABOVE_ZERO: tuple[Shape, ...] = ("inverse", "exponential")
"""The shapes that reach `minRatio` only if it is above 0."""


class ConstantScheduleSpec(ApiModel):
    """The learning rate rises linearly and then stays. As `phases`: `shape: constant`, `firstRate: afterOneStep`."""

    warmup_steps: StepNumber = 0
    """Steps of linear warm-up from 0."""


class CosineScheduleSpec(ApiModel):
    """The learning rate rises linearly, then falls along half a cosine until the last step.

    As `phases`: `shape: cosine`, `firstRate: afterOneStep`.
    """

    warmup_steps: StepNumber = 0
    """Steps of linear warm-up from 0."""
    min_ratio: Ratio = 0.1
    """Last learning rate as a share of the peak."""
    decay_steps: StepCount | None = None
    """Step at which the last learning rate is reached; it stays there. `trainer.steps` may then change. Default: the
    last step; `trainer.steps` must then stay after the warm-up."""


class WsdScheduleSpec(ApiModel):
    """Warm-up, stable, decay (Hu et al. 2024): the learning rate rises linearly, stays, and falls linearly over the
    last steps.

    `trainer.steps` may change until the decay begins. As `phases`: `shape: linear`, `firstRate: afterOneStep`.
    """

    warmup_steps: StepNumber = 0
    """Steps of linear warm-up from 0."""
    decay_steps: StepCount
    """Steps of the decay, at the end of the run."""
    min_ratio: Ratio = 0.0
    """Last learning rate as a share of the peak."""


class PhasesScheduleSpec(RuledModel):
    """Cycles of warm-up, stable phase and decay. A length up to 1 is a fraction of the cycle, above 1 steps."""

    shape: Shape = "cosine"
    """Curve of the decay."""
    warmup: Share = 0.0
    """Linear warm-up from 0, in the first cycle."""
    decay: Share | None = None
    """Decay at the end of a cycle. Default: all after the warm-up."""
    min_ratio: Ratio = 0.1
    """Last rate as a share of the peak."""
    rewarmup: Share = 0.0
    """Warm-up of later cycles, from the last rate."""
    cycles: CycleStep | None = None
    """Number of equal cycles."""
    cycle_lengths: list[CycleStep] | None = optional(max_length=MAX_CYCLES)
    """Steps of cycles; the rest is one more."""
    cycle_ends: list[CycleStep] | None = optional(max_length=MAX_CYCLES)
    """Last steps of cycles; the rest is one more."""
    first_rate: FirstRate = "atStart"
    """Rate of the first step of a cycle. `atStart`: that at the start of the curve, so 0 in a warm-up. `afterOneStep`:
    that one step later, so above 0 in a warm-up, and the last step has the last rate. `cosine`, `wsd` and `constant`
    have the latter."""
    exponent: float | None = None
    """Of `cosine` (1), `polynomial` (2), `power` (-0.51)."""
    scale: PositiveFloat | None = None
    """Of `inverseSquareRoot` (10000), `inverseSquareRootDecay` (28.6), `power` (4.6)."""

    rules: ClassVar = (
        Rule(
            "[has(self.cycles), has(self.cycleLengths), has(self.cycleEnds)].filter(x, x).size() <= 1",
            "give at most one of cycles, cycleLengths and cycleEnds",
            check=lambda self: (
                sum(given is not None for given in (self.cycles, self.cycle_lengths, self.cycle_ends)) <= 1
            ),
        ),
    )


class ScheduleSpec(OneOf):
    """The learning rate schedule: exactly one member."""

    constant: ConstantScheduleSpec | None = None
    """Warm-up, then constant."""
    cosine: CosineScheduleSpec | None = None
    """Warm-up, then half a cosine."""
    wsd: WsdScheduleSpec | None = None
    """Warm-up, constant, then a linear decay over the last steps."""
    phases: PhasesScheduleSpec | None = None
    """Decays of any shape, in cycles. A length up to 1 is a fraction of its cycle, above 1 steps."""


def cosine() -> ScheduleSpec:
    """The default schedule."""
    return ScheduleSpec(cosine=CosineScheduleSpec())


class SchedulePointSpec(ApiModel):
    """Values at one step."""

    at: Share
    """As a fraction of the run, or above 1 in steps."""
    weight_decay: NonNegativeFloat | None = None
    """Factor of `weightDecay`."""
    momentum: float | None = optional(ge=0, lt=1)
    """Momentum of the rule (`beta1`)."""


class OtherSchedulesSpec(ApiModel):
    """Schedules of weight decay and momentum, and the rate by batch size."""

    points: list[SchedulePointSpec] = Field(default=[], max_length=64)
    """In rising order; linear in between."""
    weight_decay_shape: Literal["cosine"] | None = None
    """Half a cosine to 0."""
    rate_by_batch_size: Literal["linear", "sqrt"] | None = None
    """Multiply the rate by the growth of the batch, or its root."""

    def points_of(self, name: Literal["weight_decay", "momentum"]) -> list[tuple[float, float]]:
        """The points that set one value: their place, which is a fraction of the run or a step, and the value."""
        return [(point.at, value) for point in self.points if (value := getattr(point, name)) is not None]


def steps_in(length: float, whole: int) -> int:
    """A length in steps; a fraction is rounded down.

    Args:
        length: Up to 1: a fraction of `whole`. Above 1: steps.
        whole: Steps.
    """
    return int(length * whole) if length <= 1 else int(length)
