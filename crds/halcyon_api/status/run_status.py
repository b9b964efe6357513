"""``TrainingRun.status``, written by the operator, in the form that kubectl, kstatus readers and dashboards expect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, create_model
from pydantic.alias_generators import to_snake

from halcyon_api.base import MAX_NAME_LENGTH, StatusModel, Timestamp, optional
from halcyon_api.defaults.status import DefaultsStatus
from halcyon_api.ends import COUNTERS, EndCause
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.status.goodput import Goodput, GoodputSeconds
from halcyon_api.status.plan import PlanStatus
from halcyon_api.status.progress import CheckpointProgress, Progress, StartupSeconds
from halcyon_api.status.requests import EditStatus, InForce, MaintenanceStatus, RestartStatus, SaveRequestStatus

ShortText = Annotated[str, StringConstraints(max_length=1024)]
Word = Annotated[str, StringConstraints(max_length=316)]


class QueueEviction(StatusModel):
    """The queue took its quota back from a process group."""

    attempt: int = Field(ge=0, description="Attempt of the process group.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")
    reason: Word = Field(
        description="Kueue's reason, such as `Preempted`, `PodsReadyTimeout` or `ClusterQueueStopped`."
    )
    message: ShortText = Field(default="", description="Kueue's message.")
    time: Timestamp = Field(description="Time of the eviction.")


class QueueStatus(StatusModel):
    """The queue of the present attempt."""

    name: Word = Field(description="LocalQueue.")
    waiting_since: Timestamp | None = optional("Since when the run waits for admission; absent once admitted.")
    eviction: QueueEviction | None = optional("The last time the queue took its quota back.")


MAX_BLAMES = 32
MAX_AVOIDED = 16

NodeName = Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)]


class Blame(StatusModel):
    """A process group ended because of a failure on a node."""

    node: NodeName = Field(description="Name of the node.")
    time: Timestamp = Field(description="When the process on the node ended.")
    attempt: int = Field(ge=0, description="Attempt of the process group.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")
    corrupted: bool | None = optional(
        "Whether an audit found wrong numbers of this node. False: of one of the nodes that are blamed for this end."
    )


class AvoidedNode(StatusModel):
    """A node that attempts avoid."""

    node: NodeName = Field(description="Name of the node.")
    since: Timestamp = Field(description="Since when the node is avoided.")
    blames: int = Field(ge=0, description="Number of its blames at that time.")


class PlacementStatus(StatusModel):
    """Number of slices and avoided nodes, with the reasons."""

    slices: int = Field(
        ge=1, description="Slices of the present attempt, or of the next one while the present one is stopping."
    )
    wanted_slices: int = Field(ge=1, description="Slices that the run would use if there were room.")
    reason: ShortText | None = optional("Why the run has fewer slices than `accelerator.slices`.")
    waiting_since: Timestamp | None = optional("Since when pods of the present attempt wait for a node.")
    room_since: Timestamp | None = optional("Since when a probe has held room for more slices.")
    room_slices: int | None = optional("Number of slices that the run could have with that room.", ge=1)
    room_step: int | None = optional("Committed step when the room was found. The run grows at a later one.", ge=0)
    grown_from: int | None = optional(
        "Slices before the run grew; kept until the growth has paid for itself or was lost.", ge=1
    )
    grown_at: Timestamp | None = optional("When the run grew.")
    lost_growths: int = Field(
        default=0, ge=0, description="Growths in a row that were lost before they had paid for themselves."
    )
    grow_not_before: Timestamp | None = optional("After a lost growth: when the search for room may begin again.")
    avoided: Annotated[list[AvoidedNode], Field(max_length=MAX_AVOIDED)] = Field(
        default_factory=list[AvoidedNode], description="Nodes that attempts avoid because of repeated failures on them."
    )
    blames: Annotated[list[Blame], Field(max_length=MAX_BLAMES)] = Field(
        default_factory=list[Blame], description="The last failures by node, oldest first."
    )


Phase = Literal[
    "Pending", "Queued", "Starting", "Running", "Restarting", "Suspending", "Suspended", "Succeeded", "Failed"
]

AT_REST: frozenset[Phase] = frozenset({"Suspended", "Succeeded", "Failed"})
"""Phases in which a run has no working pods, and the operator changes nothing without an edit."""

ConditionType = Literal[
    "Ready", "Reconciling", "Stalled", "Queued", "Running", "Degraded", "Suspended", "Succeeded", "Failed", "Planned"
]

Text = Annotated[str, StringConstraints(max_length=4096)]
MAX_HISTORY = 32


class Condition(StatusModel):
    """One aspect of the run's state, in the form of all Kubernetes conditions."""

    type: ConditionType = Field(description="Type of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    reason: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Z][A-Za-z0-9]*$")] = Field(
        description="Machine-readable reason, CamelCase."
    )
    message: Text = Field(default="", description="One sentence for the user.")
    last_transition_time: Timestamp = Field(description="When `status` last changed.")
    observed_generation: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Generation of the spec that the condition is about."
    )


class _Total(StatusModel):
    total: int = Field(default=0, ge=0, description="Sum over all causes.")


def _counter(name: str) -> Any:
    """The field that counts restarts, with the sentence of the cause of the same name, or of the only cause that it
    counts.
    """
    cause = next((cause for cause in EndCause if cause == name), None) or next(
        cause for cause in EndCause if cause.counter == name
    )
    limit = " Counts against `recovery.maxRestarts`." if cause.end.budget == "failure" else ""
    return int, Field(default=0, ge=0, description=cause.end.found + limit)


_Counters = create_model("_Counters", __base__=_Total, **{to_snake(name): _counter(name) for name in COUNTERS})


class Restarts(_Counters):
    """Number of restarts (new process groups), by cause."""


class RunCheckpoint(CheckpointProgress):
    """The newest committed checkpoint."""

    source: Literal["root", "trainer"] = Field(
        default="root",
        description="`root`: read from the root by the operator. `trainer`: reported, because the operator cannot "
        "read the root.",
    )


class TopologyStatus(StatusModel):
    """The hardware of the present attempt."""

    slices: int = Field(ge=1, description="Slices.")
    hosts: int = Field(ge=1, description="Hosts, over all slices; one process each.")
    devices: int = Field(ge=1, description="JAX devices, over all hosts.")
    mesh: ResolvedMesh = Field(description="Mesh axes and sizes.")


class Spending(StatusModel):
    """What the run has used."""

    chip_hours: float = Field(default=0.0, ge=0, description="Hours of chips while the run held hardware.")
    money: float | None = optional("The same times `accelerator.pricePerChipHour` of the time.", ge=0)
    share: float | None = optional("The largest used share of a part of `spec.budget`.", ge=0)


class HistoryEntry(StatusModel):
    """One process group (the processes of one start), from its start to its end."""

    attempt: int = Field(ge=0, description="Attempt.")
    restart: int = Field(ge=0, description="JobSet restart inside the attempt.")
    started_at: Timestamp = Field(description="When it was first seen.")
    ended_at: Timestamp | None = optional("When its end was seen.")
    from_step: int | None = optional("Steps done when it resumed the run.", ge=0)
    to_step: int | None = optional("Steps done when it ended.", ge=0)
    cause: str | None = optional("Why it ended.", max_length=64)
    message: Text | None = optional("Message of the process that ended first.")
    first_step_at: Timestamp | None = optional("End of its first step.")
    startup_seconds: StartupSeconds | None = optional("Durations of the phases of its start.")
    seconds: GoodputSeconds | None = optional(
        "Its time by cause, from the end of the previous process group to its own end. Steps repeated by a later "
        "group count as productive here."
    )
    unseen_seconds: float = Field(
        default=0.0, ge=0, description="Part of `other`: time after the last report of a process."
    )


class TrainingRunStatus(StatusModel):
    """The state of the run, written by the operator."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this status is about.")
    phase: Phase = Field(default="Pending", description="The conditions summarized in one word.")
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
        ),
    ] = Field(default_factory=list[Condition], description="Conditions of the run.")
    attempt: int = Field(
        default=0,
        ge=0,
        description="Number of the present attempt. It never decreases, and fences the checkpoint root.",
    )
    attempt_spec_hash: Annotated[str, StringConstraints(max_length=64)] | None = optional(
        "Hash of the part of the spec that the present attempt was created from."
    )
    defaults: DefaultsStatus | None = optional(
        "The values that the run took from its TrainingRunDefaults at its first attempt."
    )
    in_force: InForce | None = optional(
        "The editable fields of the spec that are not at their default, with the values that the run uses now."
    )
    edit: EditStatus | None = optional("The edit that waits for a checkpoint, if there is one.")
    job_set_name: Annotated[str, StringConstraints(max_length=63)] | None = optional("JobSet of the present attempt.")
    job_set_uid: Annotated[str, StringConstraints(max_length=64)] | None = optional(
        "UID of that JobSet; absent until it exists."
    )
    job_set_restarts: int = Field(default=0, ge=0, description="Restarts of that JobSet when it was last read.")
    job_set_restarts_counted: int = Field(
        default=0, ge=0, description="How many of them the JobSet counted as failures."
    )
    root_attempt: int = Field(
        default=0,
        ge=0,
        description="Highest attempt known to have owned the checkpoint root. The next attempt gets a higher number.",
    )
    failures_without_checkpoint: int = Field(
        default=0,
        ge=0,
        description="Failures in a row without a new checkpoint; `recovery.maxRestarts` is their limit.",
    )
    restarts: Restarts = Field(default_factory=Restarts, description="Restarts by cause.")
    progress: Progress | None = optional("Progress of the run.")
    checkpoint: RunCheckpoint | None = optional("The newest committed checkpoint.")
    save_request: SaveRequestStatus | None = optional(
        "The last checkpoint request, by the annotation `halcyon.dev/checkpoint`."
    )
    restart: RestartStatus | None = optional("The last restart request, by the annotation `halcyon.dev/restart`.")
    maintenance: MaintenanceStatus | None = optional("Notices of the run's nodes, such as maintenance, if any.")
    goodput: Goodput | None = optional("The share of time spent on training steps that were kept.")
    spent: Spending | None = optional("What the run has used of hardware and money.")
    plan: PlanStatus | None = optional("What a step was planned to need and take.")
    topology: TopologyStatus | None = optional("The hardware of the present attempt.")
    placement: PlacementStatus | None = optional("Number of slices and avoided nodes, with the reasons.")
    queue: QueueStatus | None = optional("The queue of the present attempt.")
    history: Annotated[list[HistoryEntry], Field(max_length=MAX_HISTORY)] = Field(
        default_factory=list[HistoryEntry], description="The last process groups, oldest first."
    )
    started_at: Timestamp | None = optional("When the first attempt was created.")
    finished_at: Timestamp | None = optional("When the run ended.")

    @property
    def waits_in_queue(self) -> bool:
        """Whether the run waits for admission by its queue."""
        return self.queue is not None and self.queue.waiting_since is not None

    @property
    def resume_step(self) -> int:
        """Committed steps that the next attempt must find."""
        return self.checkpoint.step if self.checkpoint is not None else 0

    @property
    def restart_waits(self) -> bool:
        """Whether a requested restart is still to be done."""
        return self.restart is not None and self.restart.waits

    def holds(self, kind: ConditionType) -> bool:
        """Whether a condition is true."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of a type; None if it was never set."""
        return next((condition for condition in self.conditions if condition.type == kind), None)


def parse_status(document: Any) -> TrainingRunStatus:
    """Read a status that may be absent, empty or damaged by hand. A field that cannot be read counts as absent."""
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
