"""The one next step of a run, as a value. What leads to which is in `attempts.py`, what each amounts to in `reconcile.py`."""

from __future__ import annotations

from dataclasses import dataclass

from halcyon_api.placement import PlacementStatus
from halcyon_operator.model.causes import EndCause
from halcyon_operator.model.views import JobSetView


@dataclass(frozen=True)
class Keep:
    """The attempt's JobSet does its work."""

    jobset: JobSetView


@dataclass(frozen=True)
class Finish:
    """The run is done: the attempt's JobSet has completed, or it is gone and the last step's checkpoint is in the root."""

    jobset: JobSetView | None


@dataclass(frozen=True)
class Finished:
    """The run was done before."""


@dataclass(frozen=True)
class Stop:
    """Delete the run's JobSets, because of a cause that goes into the history if the world's end is not there yet."""

    cause: EndCause
    message: str
    placement: PlacementStatus | None = None
    """Where the next attempt is placed, if that changes."""


@dataclass(frozen=True)
class Wait:
    """Something must be gone first."""

    message: str


@dataclass(frozen=True)
class Await:
    """Another run must have succeeded, or have begun, first."""

    message: str


@dataclass(frozen=True)
class HoldBack:
    """The next attempt is made later, so that a run which gets nowhere does not take hardware all the time."""

    reason: str
    message: str
    seconds: float
    """Until then."""


@dataclass(frozen=True)
class DiscardConfigMap:
    """The old attempt's ConfigMap is the last thing left of it."""

    message: str


@dataclass(frozen=True)
class Mint:
    """Write a new attempt's number down."""

    attempt: int
    pardon: bool
    """Somebody looked into the failures before it: their count begins anew."""


@dataclass(frozen=True)
class Create:
    """Make the objects of the attempt on record."""


@dataclass(frozen=True)
class Rest:
    """Suspended, and nothing of the run is left in the cluster."""


@dataclass(frozen=True)
class Stall:
    """Nothing more happens by itself."""

    reason: str
    message: str


@dataclass(frozen=True)
class StayStalled:
    """Stalled at this generation already: the status says why."""


Step = Keep | Finish | Finished | Stop | Wait | Await | HoldBack | DiscardConfigMap | Mint | Create | Rest | Stall | StayStalled
