"""What Kueue says of a JobSet in one of its queues, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

MAX_WORKLOAD_AGE_SECONDS = 15.0
"""Longest age of a Workload that was read. An admission or eviction shows in the JobSet at once."""


@dataclass(frozen=True)
class WorkloadCondition:
    """What a condition of a Workload says while it holds, or while it does not."""

    reason: str = ""
    message: str = ""
    at: datetime | None = None


@dataclass(frozen=True)
class AdmissionCheck:
    """One thing besides quota that must be so before a Workload is admitted, such as nodes by a ProvisioningRequest."""

    name: str
    state: str
    """`Pending`, `Ready`, `Retry` or `Rejected`."""
    message: str = ""


@dataclass(frozen=True)
class WorkloadView:
    """What Kueue says of a JobSet in a queue."""

    name: str
    active: bool = True
    """Kueue leaves one that is not alone, until somebody makes it active."""
    cluster_queue: str = ""
    """Where quota is reserved for it."""
    unreserved: WorkloadCondition | None = None
    """Why it has no quota, as long as it has none."""
    admitted: bool = False
    evicted: WorkloadCondition | None = None
    """Why it lost its quota, until it has some again."""
    finished: WorkloadCondition | None = None
    checks: tuple[AdmissionCheck, ...] = ()
    requeue_at: datetime | None = None
    """When it takes its place in the queue again, after an eviction."""


@dataclass(frozen=True)
class NoWorkload:
    """Kueue is there and has no Workload for the JobSet."""


@dataclass(frozen=True)
class NoKueue:
    """The cluster does not serve Workloads."""


@dataclass(frozen=True)
class WorkloadUnread:
    """The Workload could not be read. The reason is a clause for the user."""

    reason: str


WorkloadReading = WorkloadView | NoWorkload | NoKueue | WorkloadUnread
