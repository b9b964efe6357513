"""``spec.recovery``: what happens when something fails, and the reaction to a loss that is not finite or jumps."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from halcyon_api.base import ApiModel, Rule, RuledModel, Seconds, cel, optional, shows
from halcyon_api.spec.accelerator import MAX_SLICES


class SpikeSpec(ApiModel):
    """The rule for a step whose loss is far above those of the steps before it."""

    sigmas: Annotated[float, Field(ge=1, le=1000)] = Field(
        description="A loss more than this many standard deviations above the mean of the last steps is a spike."
    )
    gradient_norm_sigmas: Annotated[float, Field(ge=1, le=1000)] | None = optional(
        "The same for the gradient norm. Default: only the loss counts."
    )
    window_steps: Annotated[int, Field(ge=8, le=100_000)] = Field(
        default=256,
        description="Number of last steps for mean and standard deviation. The rule applies once there are this many.",
    )
    action: Literal["skip", "stop", "rollback"] = Field(
        default="skip",
        description=(
            "`skip`: drop the update, keep model and optimizer, continue with the next batch. `stop`: stop the run. "
            "`rollback`: see `nonFinite`."
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
            "When the loss or the gradient norm is infinite or not a number. `stop`: stop the run as `Stalled`, at "
            "its last good checkpoint. `skip`: drop the update, keep model and optimizer, continue with the next "
            "batch. `ignore`: do nothing. `rollback`: go back to the last good checkpoint and leave out the batches "
            "since then."
        ),
    )
    spike: SpikeSpec | None = optional(
        "Detect a jump of the loss. The state of this rule is in the checkpoints, so set it from the start or never."
    )

    rollback: RollbackSpec | None = optional("Settings of `rollback`. Default: their defaults.")

    cel_rules: ClassVar = (
        cel(
            "self.?spike.windowSteps == oldSelf.?spike.windowSteps && "
            "self.?spike.?gradientNormSigmas.hasValue() == oldSelf.?spike.?gradientNormSigmas.hasValue()",
            "recovery.divergence.spike must not be added, removed, change its windowSteps, or gain or lose "
            "gradientNormSigmas while the run exists, because the checkpoints hold its state; other values may change",
            field_path=".spike",
            reason="FieldValueForbidden",
        ),
    )


SliceCount = Annotated[int, Field(ge=1, le=MAX_SLICES)]


class ElasticSpec(RuledModel):
    """The range of slices on which the run may train.

    Batch, order of the data and (except for rounding) losses stay the same.
    """

    min_slices: SliceCount = Field(description="Minimum number of slices. The run waits if fewer find nodes.")
    max_slices: SliceCount | None = optional(
        "Maximum number of slices, used where there is room. The run begins with `accelerator.slices`, "
        "which is the default."
    )
    shrink_after_seconds: Seconds = Field(
        default=300,
        description="Continue with the slices that have nodes after the others have waited this long for nodes.",
    )
    grow_after_seconds: Seconds = Field(
        default=120, description="Search for room for more slices after the run has trained this long on fewer."
    )

    rules: ClassVar = (
        Rule(
            "!has(self.maxSlices) || self.minSlices <= self.maxSlices",
            lambda self: self.max_slices is None or self.min_slices <= self.max_slices,
            "minSlices must not be greater than maxSlices",
            ".minSlices",
            shows("minSlices", "maxSlices"),
        ),
    )


class BadNodesSpec(ApiModel):
    """When a node is avoided. A node is blamed if the first failure in a process group of several nodes was on it."""

    blames: Annotated[int, Field(ge=0, le=100)] = Field(
        default=2,
        description="Avoid a node after this many blames, if it has more than twice as many as "
        "any other node. 0: never.",
    )
    max_nodes: Annotated[int, Field(ge=1, le=16)] = Field(
        default=2, description="Maximum number of nodes avoided at a time."
    )
    expire_seconds: Seconds = Field(default=86_400, description="Time for which a blame counts.")
    give_up_seconds: Seconds = Field(
        default=300,
        description="Stop avoiding nodes after pods have waited this long for a node while some nodes are avoided.",
    )


class FlipBitSpec(ApiModel):
    """A bit that changes in the memory of one process, to try out an audit."""

    step: Annotated[int, Field(ge=1)] = Field(description="The bit changes after this number of steps.")
    process: Annotated[int, Field(ge=0)] = Field(description="The process, which is the number of its host in the run.")


class AuditSpec(ApiModel):
    """Audits of the devices while the run trains.

    An audit computes the gradient of a microbatch on each slice and, for the same rows, on the next one, and compares
    the bits; and it compares the copies of the state. With one slice, the parts of `data` take the place of slices, and
    without these each device repeats its own work.
    """

    every_steps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        description="Audit after each such number of steps, and after the last one. An audit takes as long as two "
        "microbatches."
    )
    on_mismatch: Literal["goBack", "report"] = Field(
        default="goBack",
        description=(
            "`goBack`: the run goes on from the last checkpoint that an audit has confirmed, and avoids the node that "
            "computed wrong numbers. `report`: only the log, a metric and an alert say so."
        ),
    )

    flip_bit: FlipBitSpec | None = optional(
        "To try out the audit: one bit of one parameter changes in the memory of a process, once, before the run is "
        "first restarted. Default: none."
    )

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Whether the run is audited after this number of steps."""
        return is_last or step % self.every_steps == 0


class RecoverySpec(ApiModel):
    """What happens when something fails. Preemptions are not counted; failures have a budget."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=10,
        description=(
            "Restarts after failures in a row without a new checkpoint. One more failure stops the run as `Stalled`. "
            "Preemptions do not count."
        ),
    )
    grace_period_seconds: Seconds = Field(
        default=30, description="Time between a pod's preemption notice and its end, for the last save."
    )
    step_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=60,
        description=(
            "A step counts as hung when it takes longer than this and longer than ten times the 99th percentile of "
            "earlier steps of its size."
        ),
    )
    divergence: DivergenceSpec = Field(
        default_factory=DivergenceSpec, description="The reaction to a loss that is not finite or jumps."
    )
    elastic: ElasticSpec | None = optional(
        "Continue with fewer slices while there is no room for all. Default: wait for all slices."
    )
    bad_nodes: BadNodesSpec = Field(default_factory=BadNodesSpec, description="When a node is avoided.")
    audit: AuditSpec | None = optional("Audits of the devices while the run trains. Default: none.")
