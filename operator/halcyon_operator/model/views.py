"""Keys of runs, objects, process groups and processes, usable as dictionary keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from halcyon_api import names
from halcyon_api.checkpoint_documents import Head
from halcyon_api.defaults.status import DefaultsStatus
from halcyon_api.status.plan import PlanStatus
from halcyon_api.status.progress import ProgressReport, TerminationReport
from halcyon_api.status.requests import Notice
from halcyon_api.status.run_status import Phase, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.settings import Settings
from halcyon_operator.model.workload import WorkloadReading

NOT_REACHED = "NotReached"
"""The waiting reason of a process whose host, without a cluster, is not reached."""
RunKey = tuple[str, str]
"""Namespace and name of a run."""
WatchedKind = Literal["trainingruns", "jobsets", "pods"]
"""Plural of a kind that the operator watches."""
ObjectKey = tuple[WatchedKind, str, str]
"""Kind, namespace and name of a watched object."""


class ProcessGroup(NamedTuple):
    """The processes of one JobSet restart. They start and end together; a later group has a larger value."""

    attempt: int
    restart: int
    """Restarts of the attempt's JobSet before this group."""


class ProcessIndex(NamedTuple):
    """One process of a group, by its slice and host."""

    slice: int
    host: int
    """Host inside the slice."""


Role = Literal["attempt", "probe", "guard", "plan"]
"""What a JobSet or pod of a run is for."""

EndKind = Literal["disrupted", "rejected", "deleted", "exited"]
"""How a pod's end began: by a disruption (eviction, preemption, loss of the node or its container), by its node, which
started no process, by a deletion, or by an exit."""


@dataclass(frozen=True)
class RunView:
    """A TrainingRun. `spec` is None if the document is not valid; `problems` has one sentence for each reason."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    deleting: bool
    spec: TrainingRunSpec | None
    problems: tuple[str, ...]
    status: TrainingRunStatus
    save_request: str
    """Value of the annotation that requests a checkpoint."""
    restart_request: str
    """Value of the annotation that requests a restart."""
    fields: dict[str, str]
    """The editable fields that are not at their default, as the user wrote them; see `status.inForce`."""
    budget_spent: str = ""
    """Which part of the budget is used up, so that the run counts as suspended; empty: none."""
    defaults: DefaultsStatus | None = None
    """Defaults for the next attempt; None: those in the status."""
    defaults_due: bool = False
    """Whether the defaults must be read for the next attempt."""
    rows: tuple[TrainingRunSpec, ...] = ()
    """The spec in each row of hardware; `spec` is that of the row in the status."""
    workload: str = ""
    """Name of its Workload, if MultiKueue made both in this worker cluster; empty: a user made it."""
    raw_spec: dict[str, object] = field(default_factory=dict[str, object])
    raw_status: dict[str, object] = field(default_factory=dict[str, object])
    on_hosts: bool = False
    """Whether it runs on hosts without a cluster, so that `kubectl` knows nothing of it."""

    @property
    def log(self) -> str:
        """What shows its user what the processes wrote."""
        return "the log of the run" if self.on_hosts else f"`kubectl logs -l {names.LABEL_RUN}={self.name}`"

    @property
    def restart(self) -> str:
        """What its user does to start it again without an edit."""
        return "start it again" if self.on_hosts else "ask for a restart (kubectl halcyon restart)"


@dataclass(frozen=True)
class JobSetView:
    """A JobSet: its owner, its number of restarts, and its outcome."""

    name: str
    uid: str
    attempt: int
    owner_uid: str
    deleting: bool
    restarts: int
    restarts_counted: int
    outcome: Literal["running", "completed", "failed"]
    failure_reason: str
    failure_message: str
    finished_at: datetime | None
    created_at: datetime | None
    replicas: int
    """Slices."""
    suspended: bool
    """Whether a queue or a user suspended it, so that it has no pods.

    The operator suspends a run by deleting its JobSet.
    """
    queue: str
    """Name of its queue; empty: no queue."""
    held_by: str = ""
    """Container that keeps its pods alive after all trainers have ended with exit code 0; empty: none does.

    See `decide.next.pods`.
    """
    in_place: bool = False
    """Whether its processes start again in their pods, so that a lost pod is replaced alone."""
    guarded: bool = False
    """Whether its pods keep off the nodes of the run's guards."""


@dataclass(frozen=True)
class PodEnding:
    """Why and when a trainer pod ended, or began to end."""

    uid: str
    name: str
    run_uid: str
    """Uid of the pod's run, which may be an earlier run with the same name."""
    group: ProcessGroup
    process: ProcessIndex
    trouble: EndKind
    at: datetime
    """When the end began: the disruption or deletion if there was one, else the end of the process."""
    ended: bool
    exit_code: int | None
    report: TerminationReport | None
    message: str = ""
    evicted: str = ""
    """Why the kubelet evicted the pod for what the pod itself used, such as too much local storage; empty: it did not.
    """
    node: str = ""
    ran: bool = False
    """Whether its process started. A pod that is deleted before its start also has an exit code."""
    jobset_uid: str = ""
    """Uid of the JobSet in its labels."""
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
    waiting_reason: str
    waiting_message: str
    waiting_for: str
    """Init container that its trainer waits for, which has the reason and the message; empty: none."""
    ending: PodEnding | None
    grace_seconds: float
    """Its grace period, if it is being deleted."""
    finalizers: tuple[str, ...]
    """Finalizers that keep it, but for that of the Job controller, which removes it by itself."""
    other_containers: tuple[str, ...]
    """Names of its containers that run, but for the trainer."""
    save_token: str = field(default="", repr=False)
    """Secret of the process, which a request for a checkpoint must contain."""
    created_at: datetime | None = None
    scheduled_at: datetime | None = None
    """When the scheduler bound it to its node."""
    started_at: datetime | None = None
    """When the first of its containers started."""
    finished_at: datetime | None = None
    """When the last of its containers ended."""
    gone_by: datetime | None = None
    """When its grace period ends; None: the pod is not being deleted."""
    job_uid: str = ""
    """Uid of the Job that controls it; empty: none does."""
    sandbox_ready: bool | None = None
    """Whether its volumes are mounted and its network works; None: the kubelet does not report it."""
    run_uid: str = ""
    """Uid of the run in its labels."""
    jobset_uid: str = ""
    """Uid of the JobSet in its labels."""

    @property
    def controlled(self) -> bool:
        """Whether a Job controls it."""
        return bool(self.job_uid)

    @property
    def over(self) -> bool:
        """Whether all its containers have ended."""
        return self.phase in ("Succeeded", "Failed")


Pods = tuple[PodView, ...]
"""Pods of a run."""


def _replaces(pod: PodView) -> tuple[bool, float]:
    """Order of the pods of one process: a Job makes another one after the first has ended."""
    return not pod.over, pod.created_at.timestamp() if pod.created_at is not None else 0.0


@dataclass(frozen=True)
class PodWarning:
    """A warning event about a pod that does not start, or about a Job or JobSet whose pods are not made."""

    kind: str
    name: str
    reason: str
    """One word, such as ``FailedMount``; empty: the Job does not exist although its JobSet does."""
    message: str
    """One line of bounded length; untrusted text."""


@dataclass(frozen=True)
class ProbeView:
    """The JobSet of a probe for more slices, or of a guard, and its pods."""

    jobset: JobSetView
    pods: Pods


@dataclass(frozen=True)
class PlannerView:
    """The JobSet that plans a run, its pod, and the pod's answer."""

    jobset: JobSetView
    hash: str
    """Hash of the part of the spec that it plans."""
    pod: PodView | None = None
    answer: PlanStatus | None = None


@dataclass(frozen=True)
class ObjectView:
    """Name and owner of an object of another kind."""

    kind: str
    name: str
    uid: str
    owner_uid: str
    deleting: bool


@dataclass(frozen=True)
class Prerequisite:
    """A run that another run waits for. `phase` is None if no run has this name."""

    name: str
    phase: Phase | None = None
    message: str = ""
    after: str = ""
    """Name of the run that it waits for; empty: none."""


@dataclass(frozen=True)
class NoticeView:
    """One notice of one node."""

    node: str
    notice: Notice
    at: datetime | None = None
    """When the maintenance begins; None: no scheduled time."""


@dataclass(frozen=True)
class HeadFound:
    """The root's HEAD was read."""

    head: Head


@dataclass(frozen=True)
class HeadAbsent:
    """The root was read and has no HEAD."""


@dataclass(frozen=True)
class HeadUnreachable:
    """The operator cannot read the root. The reason is a clause for the user."""

    reason: str


@dataclass(frozen=True)
class HeadPending:
    """The root is being read. No decision is made before the answer or the timeout."""


HeadReading = HeadFound | HeadAbsent | HeadUnreachable | HeadPending


@dataclass(frozen=True)
class Observed:
    """The observation of one run: all inputs of a decision."""

    run: RunView
    settings: Settings
    jobsets: tuple[JobSetView, ...] = ()
    """JobSets with the run's label, and any JobSet that has the name of the present attempt's JobSet."""
    pods: Pods = ()
    earlier_pods: Pods = ()
    """Trainer pods of an earlier run with the same name, by the uid in their labels; empty once this run has an
    attempt.
    """
    probe: ProbeView | None = None
    """The probe for more slices. Its JobSet and its pods are not in `jobsets` and `pods`."""
    guards: tuple[ProbeView, ...] = ()
    """The run's guards. Their JobSets and pods are not in `jobsets` and `pods`."""
    planner: PlannerView | None = None
    """What plans the run. Its JobSet and its pod are not in `jobsets` and `pods`."""
    endings: tuple[PodEnding, ...] = ()
    """Endings of present pods, and of deleted pods whose end was seen."""
    replaced: tuple[PodEnding, ...] = ()
    """Endings of pods whose process has a newer pod."""
    head: HeadReading = field(default_factory=HeadAbsent)
    report: ProgressReport | None = None
    """Progress report of process 0."""
    report_problem: str = ""
    """Why there is no report although process 0 runs."""
    config_map: ObjectView | None = None
    """The object with the name of the present attempt's ConfigMap; read only while that attempt has no JobSet."""
    config_map_lost: bool = False
    """Whether there is no such object although the JobSet has pods that need it to start."""
    origin_root: str | None = None
    """`checkpoint.root` of the run of `spec.from`; None: not read, or not known."""
    origin: Prerequisite | None = None
    """The run of `spec.from`, if it exists and has no root yet."""
    prerequisites: tuple[Prerequisite, ...] = ()
    """The run of `spec.after`, the run that it waits for itself, and so on; empty once this run has an attempt."""
    deleting_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Seconds since the operator first saw that a pod is being deleted, by its uid."""
    pod_warning: PodWarning | None = None
    """The newest warning about the first of the pods that do not start, as far as it is known."""
    notices: tuple[NoticeView, ...] = ()
    """Maintenance notices of the nodes of present pods; empty if nodes are not watched."""
    workload: WorkloadReading | None = None
    """Kueue's Workload of the present JobSet while a queue holds it; None: not read."""
    fresh_token: str = field(default="", repr=False)
    """A new secret, used if an attempt is created now."""
    create_refusal: str = ""
    """If the API server rejected the last object that the operator tried to create for the run: the reason."""
    progress_written_at: datetime | None = None
    """When this operator last wrote progress into the status."""
    pace_seconds: float = 0.0
    """Shortest interval between two routine reconciles of a run, so that the rate over all runs stays bounded."""
    now: datetime = datetime.min
    """The time of the decision, which `reconcile` sets."""

    def pods_of(self, group: ProcessGroup) -> list[PodView]:
        """The pods of a process group; of a process with two pods, the one that replaces the other."""
        own = [pod for pod in self.pods if pod.group == group]
        newest = {pod.process: pod for pod in sorted(own, key=_replaces)}
        return [pod for pod in own if pod is newest[pod.process]]

    def endings_of(self, group: ProcessGroup) -> list[PodEnding]:
        """The endings of the pods of a process group."""
        return [ending for ending in self.endings if ending.group == group]

    def reports_at_end(self, group: ProcessGroup) -> dict[ProcessIndex, TerminationReport]:
        """The termination reports of a process group, by process."""
        return {ending.process: ending.report for ending in self.endings_of(group) if ending.report}

    def report_of(self, group: ProcessGroup) -> ProgressReport | None:
        """The progress report, if it comes from this process group."""
        report = self.report
        return report if report and (report.attempt, report.restart) == group else None
