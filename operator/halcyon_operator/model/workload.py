"""Kueue's Workload of a JobSet, as plain values."""

from dataclasses import dataclass
from datetime import datetime

MAX_WORKLOAD_AGE_SECONDS = 15.0
"""Longest age of a Workload that was read. An admission or eviction is visible in the JobSet at once."""


BOOST_SECONDS = 600.0
"""Seconds of training since the last checkpoint that add one to the priority of a run in its queue."""


@dataclass(frozen=True)
class WorkloadCondition:
    """Reason, message and time of a condition of a Workload."""

    reason: str
    message: str
    at: datetime | None


@dataclass(frozen=True)
class AdmissionCheck:
    """A condition for the admission of a Workload other than quota, such as nodes from a ProvisioningRequest."""

    name: str
    state: str
    """`Pending`, `Ready`, `Retry` or `Rejected`."""
    message: str


@dataclass(frozen=True)
class WorkloadView:
    """The Workload of a JobSet."""

    name: str
    uid: str = ""
    generation: str = ""
    """Generation of the run that it was made for, if that trains on another cluster."""
    active: bool = True
    """Kueue ignores an inactive Workload until a user activates it."""
    cluster_queue: str = ""
    """ClusterQueue in which quota is reserved for it."""
    unreserved: WorkloadCondition | None = None
    """Why it has no quota; None: it has quota."""
    admitted: bool = False
    evicted: WorkloadCondition | None = None
    """Why it lost its quota; None once it has quota again."""
    finished: WorkloadCondition | None = None
    checks: tuple[AdmissionCheck, ...] = ()
    requeue_at: datetime | None = None
    """When it enters the queue again after an eviction."""
    boost: str = "0"
    """What its annotation adds to its priority."""


@dataclass(frozen=True)
class NoWorkload:
    """Kueue has no Workload for the JobSet."""


@dataclass(frozen=True)
class NoKueue:
    """The cluster does not serve Workloads."""


@dataclass(frozen=True)
class WorkloadUnread:
    """The Workload could not be read. The reason is a clause for the user."""

    reason: str


WorkloadReading = WorkloadView | NoWorkload | NoKueue | WorkloadUnread
