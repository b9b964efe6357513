"""The next step of a run, as a value. `attempts.py` chooses it, `carry_out.py` converts it to a decision."""

from __future__ import annotations

from dataclasses import dataclass

from halcyon_api.ends import EndCause, EndReason
from halcyon_api.status.run_status import PlacementStatus
from halcyon_operator.model.reasons import StallReason, StartReason
from halcyon_operator.model.views import JobSetView


@dataclass(frozen=True)
class Keep:
    """The attempt's JobSet continues."""

    jobset: JobSetView


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

    message: str


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
    | Rest
    | Stall
    | StayStalled
)
