"""``TrainingRun.status``: what the operator knows, in the shape that kubectl, kstatus readers and dashboards expect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import ApiModel, Timestamp
from halcyon_api.defaults.status import DefaultsStatus
from halcyon_api.edits.status import EditStatus, InForce
from halcyon_api.goodput import Goodput, GoodputSeconds
from halcyon_api.maintenance import MaintenanceStatus, SaveRequestStatus
from halcyon_api.placement import PlacementStatus
from halcyon_api.progress import CheckpointProgress, Progress, StartupSeconds
from halcyon_api.queue_status import QueueStatus
from halcyon_api.restart_status import RestartStatus
from halcyon_api.spec.mesh import ResolvedMesh

Phase = Literal["Pending", "Queued", "Starting", "Running", "Restarting", "Suspending", "Suspended", "Succeeded", "Failed"]

AT_REST: frozenset[Phase] = frozenset({"Suspended", "Succeeded", "Failed"})
"""Phases in which a run has no pods at work, and nothing happens by itself."""

ConditionType = Literal["Ready", "Reconciling", "Stalled", "Queued", "Running", "Degraded", "Suspended", "Succeeded", "Failed"]

RestartCause = Literal[
    "preempted",
    "queueEvicted",
    "failed",
    "hung",
    "podDeleted",
    "noRoom",
    "jobSetDeleted",
    "specChanged",
    "requested",
    "resumed",
    "fenced",
    "resized",
    "moved",
    "heldBack",
    "rootUnusable",
    "dataUnreachable",
    "unknown",
]
"""Why a world of processes was followed by another. `preempted` covers evictions, node losses and saved leaves."""

Text = Annotated[str, StringConstraints(max_length=4096)]
MAX_HISTORY = 32


class StatusModel(ApiModel):
    """Status survives up- and downgrades of the operator: fields not known here are passed over."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusModel):
    """One aspect of the run's state, in the form all Kubernetes conditions have."""

    type: ConditionType = Field(description="Aspect.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Z][A-Za-z0-9]*$")] = Field(
        description="Machine-readable reason, CamelCase."
    )
    message: Text = Field(default="", description="One sentence for people.")
    last_transition_time: Timestamp = Field(description="When `status` last changed.")
    observed_generation: Annotated[int, Field(ge=0)] = Field(default=0, description="Generation of the spec it is about.")


class Restarts(StatusModel):
    """How often a new world of processes was started, by cause."""

    total: int = Field(default=0, ge=0, description="Sum over all causes.")
    preempted: int = Field(default=0, ge=0, description="Evictions, node losses, and leaves with a saved checkpoint. Free of charge.")
    queue_evicted: int = Field(
        default=0, ge=0, description="The queue took its quota back, mostly for a run of higher priority. Free of charge."
    )
    failed: int = Field(default=0, ge=0, description="Crashes. They count against `recovery.maxRestarts`.")
    hung: int = Field(default=0, ge=0, description="No step ended in time. They count like crashes.")
    pod_deleted: int = Field(default=0, ge=0, description="Somebody deleted a pod.")
    no_room: int = Field(default=0, ge=0, description="Some pods found no node, and the others gave up waiting. Free of charge.")
    job_set_deleted: int = Field(default=0, ge=0, description="The JobSet had vanished and was made again.")
    spec_changed: int = Field(default=0, ge=0, description="The spec was edited.")
    requested: int = Field(default=0, ge=0, description="A restart was asked for by the annotation `halcyon.dev/restart`.")
    resumed: int = Field(default=0, ge=0, description="Resumed from suspension.")
    fenced: int = Field(default=0, ge=0, description="Another epoch had taken the checkpoint root.")
    resized: int = Field(default=0, ge=0, description="The run went on with fewer slices, or with more.")
    moved: int = Field(default=0, ge=0, description="The run was taken off a bad node, or back onto all nodes.")
    held_back: int = Field(default=0, ge=0, description="Free restarts got to no checkpoint, and the next attempt waited. Free of charge.")
    root_unusable: int = Field(default=0, ge=0, description="The checkpoint root could not be used, and was tried again later.")
    data_unreachable: int = Field(
        default=0, ge=0, description="A source of data did not answer or refused access, and was tried again later."
    )
    unknown: int = Field(default=0, ge=0, description="Seen by the JobSet's count only; the operator was not there.")


class RunCheckpoint(CheckpointProgress):
    """The newest committed checkpoint."""

    source: Literal["root", "trainer"] = Field(
        default="root",
        description="`root`: read in the root by the operator. `trainer`: reported; the root is out of the operator's reach.",
    )


class TopologyStatus(StatusModel):
    """What the present attempt runs on."""

    slices: int = Field(ge=1, description="Slices.")
    hosts: int = Field(ge=1, description="Hosts, over all slices; one process each.")
    devices: int = Field(ge=1, description="JAX devices, over all hosts.")
    mesh: ResolvedMesh = Field(description="Mesh axes and sizes.")


class HistoryEntry(StatusModel):
    """One world of processes: from its start to its end."""

    attempt: int = Field(ge=0, description="Attempt.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")
    started_at: Timestamp = Field(description="When it was first seen.")
    ended_at: Timestamp | None = Field(default=None, description="When its end was seen.")
    from_step: int | None = Field(default=None, ge=0, description="Steps done when it took up the run.")
    to_step: int | None = Field(default=None, ge=0, description="Steps done when it ended.")
    cause: str | None = Field(default=None, max_length=64, description="Why it ended.")
    message: Text | None = Field(default=None, description="What the process that ended first said.")
    first_step_at: Timestamp | None = Field(default=None, description="End of its first step.")
    startup_seconds: StartupSeconds | None = Field(default=None, description="Parts of its start.")
    seconds: GoodputSeconds | None = Field(
        default=None,
        description="Its time by cause, from the end of the world before it to its own; all its steps count as productive here.",
    )
    unseen_seconds: float = Field(default=0.0, ge=0, description="How much of `other` is time of a process that nobody heard of again.")


class TrainingRunStatus(StatusModel):
    """What the operator knows of the run."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this status is about.")
    phase: Phase = Field(default="Pending", description="The conditions in one word, for printing.")
    conditions: Annotated[
        list[Condition],
        Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ] = Field(default_factory=list[Condition], description="Aspects of the state.")
    attempt: int = Field(default=0, ge=0, description="Number of the present attempt. It only grows and fences the checkpoint root.")
    attempt_spec_hash: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="Hash of what the present attempt was made from."
    )
    defaults: DefaultsStatus | None = Field(
        default=None, description="What the run has taken from its TrainingRunDefaults, since its first attempt."
    )
    in_force: InForce | None = Field(
        default=None, description="The fields of the spec that may be edited and are not at their default, as the run goes by them now."
    )
    edit: EditStatus | None = Field(default=None, description="An edit that waits for a checkpoint, while there is one.")
    job_set_name: Annotated[str, StringConstraints(max_length=63)] | None = Field(
        default=None, description="JobSet of the present attempt."
    )
    job_set_uid: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="Uid of that JobSet; empty until it exists."
    )
    job_set_restarts: int = Field(default=0, ge=0, description="Restarts of that JobSet at the last look.")
    job_set_restarts_counted: int = Field(default=0, ge=0, description="How many of them the JobSet counted as failures.")
    root_attempt: int = Field(
        default=0, ge=0, description="Highest attempt known to have owned the checkpoint root; the next attempt is above it."
    )
    failures_without_checkpoint: int = Field(
        default=0, ge=0, description="Failures in a row without a new checkpoint; `recovery.maxRestarts` is their limit."
    )
    restarts: Restarts = Field(default_factory=Restarts, description="Restarts by cause.")
    progress: Progress | None = Field(default=None, description="How far the run is.")
    checkpoint: RunCheckpoint | None = Field(default=None, description="The newest committed checkpoint.")
    save_request: SaveRequestStatus | None = Field(
        default=None, description="The last checkpoint that was asked for by the annotation `halcyon.dev/checkpoint`."
    )
    restart: RestartStatus | None = Field(
        default=None, description="The last restart that was asked for by the annotation `halcyon.dev/restart`."
    )
    maintenance: MaintenanceStatus | None = Field(default=None, description="What nodes of the run say about their end, while one does.")
    goodput: Goodput | None = Field(default=None, description="How much of the time was training that lasted.")
    topology: TopologyStatus | None = Field(default=None, description="What the present attempt runs on.")
    placement: PlacementStatus | None = Field(default=None, description="On how many slices the run is, off which nodes, and why.")
    queue: QueueStatus | None = Field(default=None, description="The queue that the present attempt is in.")
    history: Annotated[list[HistoryEntry], Field(max_length=MAX_HISTORY)] = Field(
        default_factory=list[HistoryEntry], description="The last worlds of processes, oldest first."
    )
    started_at: Timestamp | None = Field(default=None, description="When the first attempt was made.")
    finished_at: Timestamp | None = Field(default=None, description="When the run ended.")

    @property
    def waits_in_queue(self) -> bool:
        """Whether a queue has yet to admit the run."""
        return self.queue is not None and self.queue.waiting_since is not None

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of a type, if it was ever set."""
        return next((condition for condition in self.conditions if condition.type == kind), None)


def parse_status(document: Any) -> TrainingRunStatus:
    """Read a status that may be absent, empty or damaged by hand: what cannot be read counts as absent, field by field."""
    if not isinstance(document, dict):
        return TrainingRunStatus()
    kept: dict[str, Any] = {}
    for key, value in document.items():  # pyright: ignore[reportUnknownVariableType]
        try:
            TrainingRunStatus.model_validate({key: value}, by_alias=True, by_name=False, strict=False)
        except ValueError:
            continue
        kept[str(key)] = value  # pyright: ignore[reportUnknownArgumentType]
    return TrainingRunStatus.model_validate(kept, by_alias=True, by_name=False, strict=False)
