"""The result of a reconcile, as plain values.

`run.controller` carries it out in this order: status, deletions, creations, events, requests to trainers. The status is
written first, only if the run still has the observed resource version. So a conclusion is recorded before its evidence
is deleted, and an attempt's number is recorded before the first object of that attempt exists."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from halcyon_api.post_requests import SaveRequest
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.reasons import EventReason
from halcyon_operator.model.settings import Settings
from halcyon_operator.model.views import RunView

Manifest = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON."""
Texts = dict[str, str]
"""Texts by their keys, such as labels or annotations."""


@dataclass(frozen=True)
class ConfigMapPlan:
    """The ConfigMap of an attempt, which holds the run document."""

    run: RunView
    attempt: int
    spec: TrainingRunSpec
    """The run's spec on the attempt's number of slices."""


@dataclass(frozen=True)
class _RunPlan:
    """An object that is made from a run's spec."""

    run: RunView
    spec: TrainingRunSpec
    """The run's spec; of an attempt, on its number of slices."""
    settings: Settings


@dataclass(frozen=True)
class JobSetPlan(_RunPlan):
    """The JobSet of an attempt."""

    attempt: int
    resume_step: int
    """Committed steps that the trainer must find."""
    remaining_restarts: int
    """Counted restarts until the JobSet gives up."""
    avoided: tuple[str, ...] = ()
    """Names of nodes that no pod may use."""
    save_token: str = field(default="", repr=False)
    """Secret that a request for a checkpoint must contain."""
    unpreferred: tuple[str, ...] = ()
    """Names of nodes that pods use only where no other node has room."""


@dataclass(frozen=True)
class ProbePlan(_RunPlan):
    """The JobSet whose pods probe for room for more slices."""

    slices: int
    avoided: tuple[str, ...] = ()
    """Names of nodes that no pod may use."""


@dataclass(frozen=True)
class GuardPlan(_RunPlan):
    """The JobSet whose pod keeps the run's pods off a node."""

    node: str


@dataclass(frozen=True)
class PlannerPlan(_RunPlan):
    """The JobSet whose pod plans the run."""

    hash: str
    """Hash of the part of the spec that decides the plan."""


@dataclass(frozen=True)
class WorkloadPlan(_RunPlan):
    """The Workload of a run that trains on another cluster."""

    queue: str
    made_at: str
    """The time, so that each Workload has another name."""


Plan = WorkloadPlan | ConfigMapPlan | JobSetPlan | ProbePlan | GuardPlan | PlannerPlan
"""An object that should exist; `objects.jobset.build` makes it."""


@dataclass(frozen=True)
class Deletion:
    """An object to delete, if it still has the observed uid."""

    kind: Literal["JobSet", "Job", "ConfigMap", "TrainingRun", "Pod", "Workload"]
    name: str
    uid: str
    resource_version: str = ""
    """If given, delete only while the object still has this version."""
    force: bool = False
    """Do not wait until the node reports the end of the processes."""


@dataclass(frozen=True)
class Event:
    """A Kubernetes Event about the run. Events with the same key are posted once."""

    type: Literal["Normal", "Warning"]
    reason: EventReason
    message: str
    key: str


@dataclass(frozen=True)
class SaveAsk:
    """A request for a checkpoint to a trainer process. The process takes the same request only once."""

    ip: str
    port: int
    token: str = field(repr=False)
    request: SaveRequest


@dataclass(frozen=True)
class Boost:
    """A number to add to the priority of the Workload of a JobSet."""

    jobset_uid: str
    workload: str
    value: str


@dataclass(frozen=True)
class Change:
    """The status after one step of a reconcile, and the events and requests of the step.

    `reconcile` passes it from step to step.
    """

    status: TrainingRunStatus
    events: tuple[Event, ...] = ()
    asks: tuple[SaveAsk, ...] = ()
    refusal: str = ""
    """Why the spec cannot be applied, as one sentence for the user; empty: it can."""
    retry: bool = False
    """Whether the user edited the spec in a way that may remove the reason why the run has stopped."""

    def then(self, later: Change) -> Change:
        """This change followed by the next one, which began with this change's status."""
        return Change(
            later.status,
            self.events + later.events,
            self.asks + later.asks,
            later.refusal or self.refusal,
            later.retry or self.retry,
        )

    def updated(self, status: TrainingRunStatus) -> Change:
        """This change with a newer status."""
        return replace(self, status=status)


@dataclass(frozen=True)
class Decision:
    """The actions to carry out now, and the latest time of the next reconcile."""

    status: TrainingRunStatus | None = None
    """The status to write; None: no write."""
    delete: tuple[Deletion, ...] = ()
    create: tuple[Plan, ...] = ()
    events: tuple[Event, ...] = ()
    asks: tuple[SaveAsk, ...] = ()
    boost: Boost | None = None
    requeue_after: float | None = None
    """Seconds until the next reconcile; None: only when something changes."""
