"""``spec.recovery``: what happens when something fails, and the reaction to a loss that is not finite or jumps."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt

from halcyon_api.base import ApiModel, AtLeastOne, Rule, RuledModel, Seconds, cel, optional, shows
from halcyon_api.spec.accelerator import MAX_SLICES


class SpikeSpec(ApiModel):
    """The rule for a step whose loss is far above those of the steps before it."""

    sigmas: Annotated[float, Field(ge=1, le=1000)]
    """A loss more than this many standard deviations above the mean of the last steps is a spike."""
    gradient_norm_sigmas: float | None = optional(ge=1, le=1000)
    """The same for the gradient norm. Default: only the loss counts."""
    window_steps: Annotated[int, Field(ge=8, le=100_000)] = 256
    """Number of these last steps. The rule applies once there are this many."""
    action: Literal["skip", "stop", "rollback"] = "skip"
    """See `nonFinite`."""


class RollbackSpec(ApiModel):
    """How a run goes back."""

    limit: Annotated[int, Field(ge=1, le=100)] = 3
    """Times that the run goes back. Then it stops."""
    further_batches: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Batches to leave out after that of the bad step."""


class DivergenceSpec(ApiModel):
    """The reaction to a loss that is not finite or jumps."""

    non_finite: Literal["stop", "skip", "ignore", "rollback"] = "stop"
    """When the loss or the gradient norm is not finite. `stop`: the run is `Stalled` at its last good checkpoint.
    `skip`: drop the update. `ignore`: do nothing. `rollback`: go back to the last good checkpoint and leave out the
    batches since then."""
    spike: SpikeSpec | None = None
    """Detect a jump of the loss. Its state is in the checkpoints, so set it from the start or never."""

    rollback: RollbackSpec | None = None
    """Settings of `rollback`. Default: their defaults."""

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

    min_slices: SliceCount
    """Minimum number of slices. The run waits if fewer find nodes."""
    max_slices: SliceCount | None = None
    """Maximum number. Default: `accelerator.slices`, with which the run begins."""
    shrink_after_seconds: Seconds = 300
    """Continue with the slices that have nodes after the others have waited this long."""
    grow_after_seconds: Seconds = 120
    """Search for room after the run has trained this long on fewer slices."""

    rules: ClassVar = (
        Rule(
            "!has(self.maxSlices) || self.minSlices <= self.maxSlices",
            "minSlices must not be greater than maxSlices",
            ".minSlices",
            shows("minSlices", "maxSlices"),
        ),
    )


class BadNodesSpec(ApiModel):
    """When a node is avoided. A node is blamed if the first failure in a process group of several nodes was on it."""

    blames: Annotated[int, Field(ge=0, le=100)] = 2
    """Avoid a node after this many blames, if it has more than twice as many as any other node. 0: never."""
    max_nodes: Annotated[int, Field(ge=1, le=16)] = 2
    """Most nodes avoided at a time."""
    expire_seconds: Seconds = 86_400
    """Time that a blame counts."""
    give_up_seconds: Seconds = 300
    """Use avoided nodes again after pods have waited this long for another."""


class StragglerSpec(ApiModel):
    """When a process is slow, by the time of a fixed product on its devices, which waits for no other process."""

    factor: Annotated[float, Field(ge=1.1, le=100)] = 1.5
    """It is slow above this multiple of the others' median."""
    for_steps: Annotated[int, Field(ge=1, le=100_000)] = 100
    """Steps in a row for which it must be."""
    action: Literal["report", "replace"] = "report"
    """`replace`: the run leaves its node at the next checkpoint."""


class FlipBitSpec(ApiModel):
    """A bit that changes in the memory of one process, to try out an audit."""

    step: AtLeastOne
    """The bit changes after this number of steps."""
    process: NonNegativeInt
    """The process: number of its host in the run."""


class AuditSpec(ApiModel):
    """Audits of the devices while the run trains.

    An audit computes the gradient of a microbatch on each slice and, for the same rows, on the next one, and compares
    the bits; and it compares the copies of the state. With one slice, the parts of `data` take the place of slices, and
    without these each device repeats its own work.
    """

    every_steps: Annotated[int, Field(ge=1, le=1_000_000)]
    """Audit after each such number of steps, and after the last one. It takes as long as two microbatches."""
    on_mismatch: Literal["goBack", "report"] = "goBack"
    """`goBack`: go on from the last checkpoint that an audit has confirmed, and avoid the node with wrong numbers.
    `report`: only the log, a metric and an alert say so."""

    flip_bit: FlipBitSpec | None = None
    """To try it out: a bit changes once, before the first restart. Default: none."""

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Whether the run is audited after this number of steps."""
        return is_last or step % self.every_steps == 0


class RecoverySpec(ApiModel):
    """What happens when something fails."""

    max_restarts: Annotated[int, Field(ge=0, le=1000)] = 10
    """Restarts after failures in a row without a new checkpoint. One more failure stops the run as `Stalled`.
    Preemptions do not count."""
    grace_period_seconds: Seconds = 30
    """Time between a pod's preemption notice and its end, for the last save."""
    step_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """A step hangs if it takes longer than this and than ten times the 99th percentile of earlier steps of its size."""
    divergence: DivergenceSpec = Field(default_factory=DivergenceSpec)
    """The reaction to a loss that is not finite or jumps."""
    in_place: bool = True
    """A lost process starts again in its pod, and a lost pod is replaced alone. If false, or with `maxRestarts: 0`: a
    restart replaces all pods."""
    elastic: ElasticSpec | None = None
    """Continue with fewer slices while there is no room for all. Default: wait for all slices."""
    bad_nodes: BadNodesSpec = Field(default_factory=BadNodesSpec)
    """When a node is avoided."""
    straggler: StragglerSpec | None = None
    """When a process is slow. If set, the devices are also measured before the first step. Default: the defaults of its
    members."""
    audit: AuditSpec | None = None
    """Audits of the devices while the run trains. Default: none."""
