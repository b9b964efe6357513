"""``TrainingRun.status``, written by the operator, in the form that kubectl, kstatus readers and dashboards expect."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, StringConstraints, create_model
from pydantic.alias_generators import to_snake

from halcyon_api.base import MAX_NAME_LENGTH, AtLeastOne, StatusModel, Timestamp, optional
from halcyon_api.defaults.status import DefaultsStatus
from halcyon_api.ends import COUNTERS, EndCause
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.spec.place import MAX_OTHERS
from halcyon_api.status.goodput import Goodput, GoodputSeconds
from halcyon_api.status.plan import PlanStatus
from halcyon_api.status.progress import CheckpointProgress, Progress, StartupSeconds
from halcyon_api.status.requests import EditStatus, InForce, MaintenanceStatus, RestartStatus, SaveRequestStatus

ShortText = Annotated[str, StringConstraints(max_length=1024)]
Word = Annotated[str, StringConstraints(max_length=316)]


class QueueEviction(StatusModel):
    """The queue took its quota back from a process group."""

    attempt: NonNegativeInt
    """Attempt of the process group."""
    restart: NonNegativeInt
    """JobSet restart inside the attempt."""
    reason: Word
    """Kueue's reason, such as `Preempted`, `PodsReadyTimeout` or `ClusterQueueStopped`."""
    message: ShortText = ""
    """Kueue's message."""
    time: Timestamp
    """Time of the eviction."""


class QueueStatus(StatusModel):
    """The queue of the present attempt."""

    name: Word
    """LocalQueue."""
    waiting_since: Timestamp | None = None
    """Since when the run waits for admission; absent once admitted."""
    eviction: QueueEviction | None = None
    """The last time the queue took its quota back."""


MAX_BLAMES = 32
MAX_AVOIDED = 16

NodeName = Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH)]


class Blame(StatusModel):
    """A failure, or a slow process, on a node."""

    node: NodeName
    """Name of the node."""
    time: Timestamp
    """When the process ended or was slow."""
    attempt: NonNegativeInt
    """Attempt of the process group."""
    restart: NonNegativeInt
    """JobSet restart inside the attempt."""
    corrupted: bool | None = None
    """Whether an audit found wrong numbers of this node. False: of one of the blamed ones."""
    rejected: bool | None = None
    """Whether the node rejected the pod."""
    slow: NonNegativeInt | None = None
    """Step at which its process was slow."""


class AvoidedNode(StatusModel):
    """A node that attempts avoid."""

    node: NodeName
    """Name of the node."""
    since: Timestamp
    """Since when the node is avoided."""
    blames: NonNegativeInt
    """Number of its blames at that time."""
    attempt: AtLeastOne | None = None
    """Attempt of which only the pod on this node was replaced."""


class PlacementStatus(StatusModel):
    """Slices and avoided nodes, with the reasons."""

    slices: AtLeastOne
    """Slices of the present attempt; while it stops, of the next one."""
    wanted_slices: AtLeastOne
    """Slices that the run would use if there were room."""
    row: Annotated[int, Field(ge=0, le=MAX_OTHERS)] = 0
    """Row of hardware of the present attempt; while it stops, of the next one. 0: `accelerator`, n: the nth of
    `place.otherwise`."""
    speeds: list[NonNegativeFloat] = Field(default_factory=list[float], max_length=1 + MAX_OTHERS)
    """Tokens a second in each row, measured or planned. 0: not known."""
    reason: ShortText | None = None
    """Why the run has fewer slices than `accelerator.slices`."""
    waiting_since: Timestamp | None = None
    """Since when its pods wait for a node."""
    room_since: Timestamp | None = None
    """Since when a probe has held room for more slices."""
    room_slices: AtLeastOne | None = None
    """Slices that the run could have with that room."""
    room_row: NonNegativeInt | None = None
    """Row that the search for room is for."""
    room_step: NonNegativeInt | None = None
    """Committed step when the room was found. The run grows at a later one."""
    grown_from: AtLeastOne | None = None
    """Slices before the run grew, until the growth has paid for itself or was lost."""
    grown_at: Timestamp | None = None
    """When the run grew."""
    lost_growths: NonNegativeInt = 0
    """Growths in a row lost before they had paid for themselves."""
    grow_not_before: Timestamp | None = None
    """After a lost growth: when the search for room begins again."""
    avoided: list[AvoidedNode] = Field(default_factory=list[AvoidedNode], max_length=MAX_AVOIDED)
    """Nodes that attempts avoid."""
    blames: list[Blame] = Field(default_factory=list[Blame], max_length=MAX_BLAMES)
    """The last ones, oldest first."""


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

    type: ConditionType
    """Type of the condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    reason: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Z][A-Za-z0-9]*$")]
    """Machine-readable reason, CamelCase."""
    message: Text = ""
    """One sentence for the user."""
    last_transition_time: Timestamp
    """When `status` last changed."""
    observed_generation: NonNegativeInt = 0
    """Generation of the spec that the condition is about."""


class _Total(StatusModel):
    total: NonNegativeInt = 0
    """Sum over all causes."""
    in_place: NonNegativeInt = 0
    """Those in place."""


def _counter(name: str) -> Any:
    """The field that counts restarts, with the sentence of the cause of the same name, or of the only cause that it
    counts.
    """
    cause = next((cause for cause in EndCause if cause == name), None) or next(
        cause for cause in EndCause if cause.counter == name
    )
    limit = " See `recovery.maxRestarts`." if cause.end.budget == "failure" else ""
    return int, Field(default=0, ge=0, description=cause.end.found + limit)


_Counters = create_model("_Counters", __base__=_Total, **{to_snake(name): _counter(name) for name in COUNTERS})


class Restarts(_Counters):
    """Number of restarts (new process groups), by cause."""


class RunCheckpoint(CheckpointProgress):
    """The newest committed checkpoint."""

    source: Literal["root", "trainer"] = "root"
    """`root`: read from the root by the operator. `trainer`: reported, because the operator cannot read the root."""


class TopologyStatus(StatusModel):
    """The hardware of the present attempt."""

    slices: AtLeastOne
    """Slices."""
    hosts: AtLeastOne
    """Hosts, over all slices; one process each."""
    devices: AtLeastOne
    """JAX devices, over all hosts."""
    mesh: ResolvedMesh
    """Mesh axes and sizes."""


class Spending(StatusModel):
    """What the run has used."""

    chip_hours: NonNegativeFloat = 0.0
    """Chips times the hours that pods held them."""
    money: NonNegativeFloat | None = None
    """The same times the price of the time."""
    share: NonNegativeFloat | None = None
    """The largest used share of a part of `spec.budget`."""
    pods: NonNegativeInt = 0
    """Pods that held chips at `countedUntil`."""
    counted_until: Timestamp | None = None
    """End of the last count."""


class HistoryEntry(StatusModel):
    """One process group (the processes of one start), from its start to its end."""

    attempt: NonNegativeInt
    """Attempt."""
    restart: NonNegativeInt
    """JobSet restart inside the attempt."""
    in_place: NonNegativeInt = 0
    """Starts in its pods before it."""
    started_at: Timestamp
    """When it was first seen."""
    ended_at: Timestamp | None = None
    """When its end was seen."""
    from_step: NonNegativeInt | None = None
    """Steps done when it resumed the run."""
    to_step: NonNegativeInt | None = None
    """Steps done when it ended."""
    cause: str | None = optional(max_length=64)
    """Why it ended."""
    message: Text | None = None
    """Message of the process that ended first."""
    first_step_at: Timestamp | None = None
    """End of its first step."""
    startup_seconds: StartupSeconds | None = None
    """Durations of the phases of its start."""
    seconds: GoodputSeconds | None = None
    """Its time by cause, from the end of the previous process group to its own end. Steps repeated by a later group
    count as productive here."""
    unseen_seconds: NonNegativeFloat = 0.0
    """Part of `other`: time after the last report of a process."""


class TrainingRunStatus(StatusModel):
    """The state of the run, written by the operator."""

    observed_generation: NonNegativeInt = 0
    """Generation of the spec that this status is about."""
    phase: Phase = "Pending"
    """The conditions summarized in one word."""
    conditions: list[Condition] = Field(
        default_factory=list[Condition],
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """Conditions of the run."""
    attempt: NonNegativeInt = 0
    """Number of the present attempt. It never decreases, and fences the checkpoint root."""
    attempt_spec_hash: str | None = optional(max_length=64)
    """Hash of the part of the spec that the present attempt was created from."""
    defaults: DefaultsStatus | None = None
    """The values that the run took from its TrainingRunDefaults at its first attempt."""
    in_force: InForce | None = None
    """The editable fields of the spec that are not at their default, with the values that the run uses now."""
    edit: EditStatus | None = None
    """The edit that waits for a checkpoint, if there is one."""
    job_set_name: str | None = optional(max_length=63)
    """JobSet of the present attempt."""
    job_set_uid: str | None = optional(max_length=64)
    """UID of that JobSet; absent until it exists."""
    job_set_restarts: NonNegativeInt = 0
    """Restarts of that JobSet when it was last read."""
    job_set_restarts_counted: NonNegativeInt = 0
    """How many of them the JobSet counted as failures."""
    root_attempt: NonNegativeInt = 0
    """Highest attempt known to have owned the checkpoint root. The next attempt gets a higher number."""
    failures_without_checkpoint: NonNegativeInt = 0
    """Failures in a row without a new checkpoint; `recovery.maxRestarts` is their limit."""
    restarts: Restarts = Field(default_factory=Restarts)
    """Restarts by cause."""
    progress: Progress | None = None
    """Progress of the run."""
    checkpoint: RunCheckpoint | None = None
    """The newest committed checkpoint."""
    save_request: SaveRequestStatus | None = None
    """The last checkpoint request, by the annotation `halcyon.dev/checkpoint`."""
    restart: RestartStatus | None = None
    """The last restart request, by the annotation `halcyon.dev/restart`."""
    maintenance: MaintenanceStatus | None = None
    """Notices of the run's nodes."""
    goodput: Goodput | None = None
    """The share of time spent on training steps that were kept."""
    spent: Spending | None = None
    """What the run has used of hardware and money."""
    plan: PlanStatus | None = None
    """What a step was planned to need and take."""
    topology: TopologyStatus | None = None
    """The hardware of the present attempt."""
    placement: PlacementStatus | None = None
    """Slices and avoided nodes, with the reasons."""
    queue: QueueStatus | None = None
    """The queue of the present attempt."""
    history: list[HistoryEntry] = Field(default_factory=list[HistoryEntry], max_length=MAX_HISTORY)
    """The last process groups, oldest first."""
    started_at: Timestamp | None = None
    """When the first attempt was created."""
    finished_at: Timestamp | None = None
    """When the run ended."""

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
