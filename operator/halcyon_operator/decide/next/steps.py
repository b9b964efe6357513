"""The next step of a run, as a value, and the situation that it depends on. Pure.

`attempts.py` chooses the step by tables of cases, and `carry_out.py` converts it to a decision.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from halcyon_api.ends import EndCause, EndReason
from halcyon_api.status.run_status import PlacementStatus, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.next.recovery import STICKY_REASONS
from halcyon_operator.decide.record.completion import lengthened
from halcyon_operator.decide.record.placement import placement_of
from halcyon_operator.decide.record.spec_hash import fits
from halcyon_operator.model.reasons import StallReason, StartReason
from halcyon_operator.model.views import JobSetView, Observed


@dataclass(frozen=True)
class Keep:
    """The attempt's JobSet continues."""

    jobset: JobSetView
    placement: PlacementStatus | None = None
    """The placement, if it changes."""


@dataclass(frozen=True)
class Finish:
    """The run is done: the attempt's JobSet has completed, or no longer exists and the last step's checkpoint is in the
    root.
    """

    jobset: JobSetView | None


@dataclass(frozen=True)
class Finished:
    """The run was done before."""


@dataclass(frozen=True)
class Stop:
    """Delete the run's JobSets. The cause goes into the history if the process group has no end there yet."""

    cause: EndCause
    message: str
    placement: PlacementStatus | None = None
    """The placement of the next attempt, if it changes."""


@dataclass(frozen=True)
class Wait:
    """Wait until objects of the last attempt are deleted."""

    message: str


@dataclass(frozen=True)
class Await:
    """Wait until another run has succeeded or begun."""

    message: str


@dataclass(frozen=True)
class HoldBack:
    """Delay the next attempt, so that a run without progress does not use hardware all the time."""

    reason: StartReason | EndReason
    message: str
    seconds: float
    """Seconds until the next attempt."""


@dataclass(frozen=True)
class DiscardConfigMap:
    """Delete the ConfigMap of the old attempt, its last object."""


@dataclass(frozen=True)
class NewAttempt:
    """Write the number of a new attempt into the status."""

    attempt: int
    reset_failures: bool
    """A user has handled the earlier failures, so their count starts again at 0."""


@dataclass(frozen=True)
class Create:
    """Create the objects of the recorded attempt."""


@dataclass(frozen=True)
class MakePlan:
    """Let a pod without accelerators compile the step, and wait for its answer."""


@dataclass(frozen=True)
class Rest:
    """The run is suspended. Of its objects only the ConfigMap of the last attempt stays in the cluster."""


@dataclass(frozen=True)
class Stall:
    """Nothing happens until a user acts."""

    reason: StallReason
    message: str


@dataclass(frozen=True)
class StayStalled:
    """The run is already stalled; the status has the reason."""


Step = (
    Keep
    | Finish
    | Finished
    | Stop
    | Wait
    | Await
    | HoldBack
    | DiscardConfigMap
    | NewAttempt
    | Create
    | MakePlan
    | Rest
    | Stall
    | StayStalled
)


@dataclass(frozen=True)
class Situation:
    """All that the next step depends on."""

    observed: Observed
    status: TrainingRunStatus
    """The run's status, updated from its JobSet and its checkpoints."""
    spec: TrainingRunSpec
    """The run's valid spec."""
    jobset: JobSetView | None
    """The JobSet of the recorded attempt, if it exists and belongs to the run."""
    wanted_hash: str
    """Hash of the state of the spec that an attempt should be created from."""
    retry: bool = False
    """Whether the spec was edited in a way that may remove the reason why the run has stopped."""

    @property
    def placement(self) -> PlacementStatus:
        """The recorded placement; if there is none, that of the attempt's topology."""
        return placement_of(self.status, self.spec)

    @property
    def lengthened(self) -> bool:
        """Whether the spec has more steps than the run was done with."""
        return lengthened(self.status, self.spec)

    @property
    def stopped(self) -> bool:
        """Whether the run has stopped until an edit or a requested restart may fix it."""
        condition = self.status.condition("Stalled")
        return condition is not None and condition.status == "True" and condition.reason in STICKY_REASONS

    @property
    def released(self) -> bool:
        """Whether a user has done what may fix a run that has stopped."""
        return self.stopped and (self.retry or self.status.restart_waits)

    @property
    def edited(self) -> bool:
        """Whether the present attempt was created from another state of the spec."""
        return not fits(self.status.attempt_spec_hash, self.wanted_hash)

    @property
    def renewed(self) -> bool:
        """Whether an edit or a requested restart waits for a new attempt."""
        return self.edited or self.status.restart_waits


@dataclass(frozen=True)
class Case:
    """A row of a table: the first case that gives a step decides. The reference shows the rows in the same order."""

    when: str
    """The case, in a few words."""
    then: str
    """What the operator does."""
    step: Callable[[Situation], Step | None]
    """The step; None if the case is another one."""


def first_step(cases: Iterable[Case], situation: Situation) -> Step | None:
    """The step of the first case that gives one."""
    return next((step for case in cases if (step := case.step(situation)) is not None), None)
