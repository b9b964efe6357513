"""What the operator looks at, as plain values: the parts of runs, JobSets and pods that decisions are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from halcyon_api.checkpoint_documents import Head
from halcyon_api.defaults.status import DefaultsStatus
from halcyon_api.maintenance import Notice
from halcyon_api.progress import ProgressReport, TerminationReport
from halcyon_api.status import Phase, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.keys import ProcessGroup, ProcessIndex
from halcyon_operator.model.pod_policy import PodPolicy
from halcyon_operator.model.workload import WorkloadReading

World = tuple[int, int]
"""One world of processes, which lives and dies as one: (attempt, JobSet restart)."""

Trouble = Literal["disrupted", "deleted", "exited"]
"""How a pod's end began: by a disruption (eviction, preemption, loss of the node), by a deletion, or by itself."""


@dataclass(frozen=True)
class RunView:
    """A TrainingRun. `spec` is None when the document is not valid; `problems` says why, one sentence each."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    deleting: bool
    spec: TrainingRunSpec | None
    problems: tuple[str, ...]
    status: TrainingRunStatus
    save_request: str = ""
    """Value of the annotation that asks for a checkpoint."""
    restart_request: str = ""
    """Value of the annotation that asks for a restart."""
    fields: dict[str, str] = field(default_factory=dict[str, str])
    """The fields that may be edited and are not at their default, as the user wrote them; see `status.inForce`."""
    defaults: DefaultsStatus | None = None
    """What the run takes from its defaults with its next attempt; None: what is on record."""
    defaults_due: bool = False
    """Whether it is to take them as they are now, so that somebody has to look."""
    raw_spec: dict[str, object] = field(default_factory=dict[str, object])
    raw_status: dict[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True)
class JobSetView:
    """A JobSet: whose it is, how often it restarted its world, and whether it is over."""

    name: str
    uid: str
    attempt: int
    owner_uid: str
    deleting: bool
    restarts: int
    restarts_counted: int
    outcome: Literal["running", "completed", "failed"]
    failure_reason: str = ""
    failure_message: str = ""
    finished_at: datetime | None = None
    created_at: datetime | None = None
    replicas: int = 0
    """Slices."""
    suspended: bool = False
    """Whether somebody wants it to have no pods: a queue, or a person. The operator suspends a run by deleting its JobSet."""
    queue: str = ""
    """The queue that it is in; empty: in none."""


@dataclass(frozen=True)
class PodEnding:
    """Why and when a trainer pod ended, or began to."""

    uid: str
    name: str
    run_uid: str
    """The run of the pod, which may be an earlier one of the same name."""
    group: ProcessGroup
    process: ProcessIndex
    trouble: Trouble
    at: datetime
    """When the trouble began: the disruption or deletion if there was one, else the end of the process."""
    ended: bool
    exit_code: int | None = None
    report: TerminationReport | None = None
    message: str = ""
    node: str = ""
    ran: bool = False
    """Whether its process is known to have begun: a pod that is deleted before it starts has an exit code all the same."""
    jobset_uid: str = ""
    """The JobSet that its labels name."""
    controlled: bool = False
    """Whether a Job controls it."""


@dataclass(frozen=True)
class PodView:
    """A trainer pod."""

    name: str
    uid: str
    group: ProcessGroup
    process: ProcessIndex
    phase: str
    ip: str
    node: str
    deleting: bool
    running: bool
    waiting_reason: str = ""
    waiting_message: str = ""
    ending: PodEnding | None = None
    save_token: str = field(default="", repr=False)
    """What the operator gave the process, for whoever may ask it for a checkpoint."""
    created_at: datetime | None = None
    scheduled_at: datetime | None = None
    """When it got its node."""
    gone_by: datetime | None = None
    """When its grace period ends; None where nobody has deleted it."""
    sandbox_ready: bool | None = None
    """Whether its volumes are mounted and its network is there; None: its kubelet does not say."""
    run_uid: str = ""
    """The run that its labels name."""
    jobset_uid: str = ""
    """The JobSet that its labels name."""
    controlled: bool = False
    """Whether a Job controls it."""

    @property
    def over(self) -> bool:
        """Whether its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True)
class PodWarning:
    """What an event says of a pod that does not start."""

    pod_uid: str
    reason: str
    """One word, such as ``FailedMount``."""
    message: str
    """One line of bounded length, by somebody else."""


@dataclass(frozen=True)
class ProbeView:
    """The JobSet that looks for room for more slices, and its pods."""

    jobset: JobSetView
    pods: tuple[PodView, ...] = ()


@dataclass(frozen=True)
class ObjectView:
    """Any other object, by name: whose it is."""

    kind: str
    name: str
    uid: str
    owner_uid: str
    deleting: bool


@dataclass(frozen=True)
class Prerequisite:
    """A run that another one waits for. `phase` is None where there is none of the name."""

    name: str
    phase: Phase | None = None
    message: str = ""
    after: str = ""
    """The run that it waits for itself, if it does."""


@dataclass(frozen=True)
class NoticeView:
    """One notice of one node."""

    node: str
    notice: Notice
    at: datetime | None = None
    """For when it is announced; None: it is under way."""


@dataclass(frozen=True)
class HeadFound:
    """The root's HEAD was read."""

    head: Head


@dataclass(frozen=True)
class HeadAbsent:
    """The root was read and has no HEAD."""


@dataclass(frozen=True)
class HeadUnreachable:
    """The root is out of the operator's reach. The reason is a clause for the user."""

    reason: str


@dataclass(frozen=True)
class HeadPending:
    """The root is being read. Nothing is decided before the answer is there, or it is known that there will be none."""


HeadReading = HeadFound | HeadAbsent | HeadUnreachable | HeadPending


@dataclass(frozen=True)
class Platform:
    """What is the same for all runs of a cluster."""

    trainer_image: str
    cluster_domain: str = "cluster.local"
    probe_priority_class: str = ""
    """PriorityClass of the pods that look for room; empty: the cluster's default."""
    allow_gpu_direct: bool = False
    """Whether runs may use directories of their node and a sidecar that runs as root, for the fast network of their GPUs."""
    s3_endpoints: frozenset[str] = frozenset()
    """The S3 endpoints that runs may name, as `endpoints.normal` writes them."""
    pods: PodPolicy = field(default_factory=PodPolicy)
    """What the owner gives to the pods of runs."""
    pod_memory: Mapping[str, str] = field(default_factory=dict[str, str])
    """By accelerator type, what pods ask for where their run says nothing; `none`: no memory. Default: by the machine."""
    stuck_after_seconds: float = 300.0
    """A pod that is still there so long after its grace period does not end by itself."""
    force_delete_stuck: bool = False
    """Whether such pods are deleted by force."""
    kueue: bool = False
    """Whether runs may wait in queues of Kueue, whose Workloads the operator then reads."""


@dataclass(frozen=True)
class Observed:
    """Everything that a decision about one run is made from."""

    run: RunView
    platform: Platform
    jobsets: tuple[JobSetView, ...] = ()
    """JobSets that bear the run's label, and whatever stands under the name of the present attempt's JobSet."""
    pods: tuple[PodView, ...] = ()
    earlier_pods: tuple[PodView, ...] = ()
    """Trainer pods of an earlier run of the same name, by the uid in their labels; looked for only until this one has begun."""
    probe: ProbeView | None = None
    """What looks for room for more slices; neither its JobSet nor its pods are among the others."""
    endings: tuple[PodEnding, ...] = ()
    """Endings of pods that are there, and of pods that were seen to end and are gone."""
    head: HeadReading = field(default_factory=HeadAbsent)
    report: ProgressReport | None = None
    """What process 0 tells of itself."""
    report_problem: str = ""
    """Why there is no report although the process runs."""
    config_map: ObjectView | None = None
    """The object under the name of the present attempt's ConfigMap; read only while that attempt has no JobSet."""
    origin_root: str | None = None
    """`checkpoint.root` of the run that this one begins from, by its TrainingRun; None where it was not looked up, or is not known."""
    origin: Prerequisite | None = None
    """That run, where it is there and has no root yet because it has not begun."""
    prerequisites: tuple[Prerequisite, ...] = ()
    """The run that this one comes after, the one that this comes after, and so on; empty once the run has begun."""
    pod_warning: PodWarning | None = None
    """The newest warning about the first of the pods that do not start, as far as it is known."""
    notices: tuple[NoticeView, ...] = ()
    """What the nodes of the present pods say about their end; empty where nodes are not watched."""
    workload: WorkloadReading | None = None
    """What Kueue says of the present attempt's JobSet while a queue holds it; None where it was not asked for."""
    fresh_token: str = field(default="", repr=False)
    """A secret that nobody has yet, for an attempt that is created now."""
    create_refusal: str = ""
    """Why the API server refused the last object that was to be created for the run, if it did."""
    progress_written_at: datetime | None = None
    """When this operator last wrote progress into the status."""
    pace_seconds: float = 0.0
    """How often to look at, and write of, a run at which nothing happens, if its own interval is shorter: one operator's share for it."""
