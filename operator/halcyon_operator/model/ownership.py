"""Which pods, JobSets and ConfigMaps belong to a run, and which of its pods is the first process, or late. Pure.

Every user who may create pods in a namespace can give them a run's labels, so labels alone are no proof. A pod belongs
to the run if a Job controls it and if its labels contain the uid of a JobSet that the run controls. A user who may
create Jobs there can still make a pod that looks the same: see docs/design/threat-model.md.
"""

from collections.abc import Iterable
from datetime import datetime

from halcyon_api import names
from halcyon_api.spec.telemetry import TelemetrySpec
from halcyon_api.status.requests import read_recorded
from halcyon_operator.model.views import (
    JobSetView,
    ObjectView,
    Observed,
    PodEnding,
    Pods,
    PodView,
    ProcessGroup,
    RunView,
)

START_SECONDS = 300.0
"""Time after which a pod that has a node and does not run is late."""
SILENT_SECONDS = 60.0
"""Time after which the JobSet controller counts as away if it has done nothing that was due."""
DEFAULT_PORT = TelemetrySpec().port
_LAST_PORT = 65_535


def own_jobset_uids(run: RunView, jobsets: Iterable[JobSetView]) -> frozenset[str]:
    """The uids of the JobSets that a run controls, and of the recorded JobSet, which may be deleted before its pods."""
    own = (
        jobset.uid
        for jobset in jobsets
        if run.uid and jobset.owner_uid == run.uid and names.is_attempt_name(run.name, jobset.name)
    )
    return frozenset(uid for uid in (*own, run.status.job_set_uid or "") if uid)


def is_own(pod: PodView | PodEnding, run: RunView, jobset_uids: frozenset[str]) -> bool:
    """Whether one of these JobSets of the run made the pod."""
    made = bool(run.uid) and pod.run_uid == run.uid and pod.controlled and pod.jobset_uid in jobset_uids
    return made and bool(pod.uid) and pod.name.startswith(f"{run.name}-")


def own_jobsets(observed: Observed) -> tuple[JobSetView, ...]:
    """JobSets that the run controls and that have a name of its attempts.

    The operator does not touch any other JobSet.
    """
    return tuple(jobset for jobset in observed.jobsets if _controls(observed, jobset))


def highest_own(observed: Observed) -> int:
    """The highest attempt that has a JobSet.

    It is above the recorded attempt if the status was lost or changed by hand.
    """
    return max((int(jobset.name.rpartition("-")[2]) for jobset in own_jobsets(observed)), default=0)


def own_config_map(observed: Observed) -> ObjectView | None:
    """The ConfigMap of the present attempt, if it is the run's own."""
    return observed.config_map if observed.config_map is not None and _controls(observed, observed.config_map) else None


def _controls(observed: Observed, thing: JobSetView | ObjectView) -> bool:
    run = observed.run
    return bool(run.uid) and thing.owner_uid == run.uid and names.is_attempt_name(run.name, thing.name)


def late_pods(pods: Iterable[PodView], now: datetime) -> list[PodView]:
    """The late pods, in the order of their processes."""
    late = [
        pod
        for pod in pods
        if pod.phase == "Pending" and not pod.deleting and not pod.running and pod.scheduled_at is not None
        and (now - pod.scheduled_at).total_seconds() >= START_SECONDS
    ]  # fmt: skip
    return sorted(late, key=lambda pod: (pod.process, pod.name))


def first_process(pods: Pods, group: ProcessGroup) -> PodView | None:
    """The pod of process 0 of a group, if it runs and has an address."""
    return next((pod for pod in pods if pod.group == group and pod.process == (0, 0) and pod.running and pod.ip), None)


def trainer_port(run: RunView) -> int:
    """Telemetry port of the present processes. The spec may already have another port for the next ones."""
    port = (
        read_recorded(run.status.in_force).get("telemetry.port", DEFAULT_PORT)
        if run.status.in_force is not None
        else None
    )
    if isinstance(port, int) and 0 < port <= _LAST_PORT:
        return port
    return run.spec.telemetry.port if run.spec is not None else DEFAULT_PORT
