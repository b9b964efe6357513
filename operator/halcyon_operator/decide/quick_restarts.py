"""Requests that make a restart faster: deletions of pods, and a change of a Job. Pure.

Without them a run restarts too, up to three seconds later, because the kubelet and the Job controller act on most
changes in rounds of a second. They act at once on the deletion of a pod and on a change of a Job's spec.
docs/design/recovery.md lists the waits."""

from __future__ import annotations

from datetime import datetime

from halcyon_api import names
from halcyon_api.ends import FATAL_CODES
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.placement import trains
from halcyon_operator.model.decision import Deletion, JobSync
from halcyon_operator.model.endings import is_echo
from halcyon_operator.model.keys import ProcessGroup
from halcyon_operator.model.ownership import is_own
from halcyon_operator.model.views import JobSetView, Observed, PodEnding, PodView

MAX_PODS = 64
"""In a larger process group no pod is deleted: the load of the requests on the API server is not worth the seconds."""


def pods_to_delete(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> tuple[Deletion, ...]:
    """The pods to delete so that a process group ends faster, because one of its pods is being deleted.

    The other pods are deleted too. They would end anyway, because the processes notify each other and save together,
    but the kubelet looks only once a second whether a container has ended. And a deleted pod that has failed is deleted
    without its grace period: no container runs any more, but the kubelet would remove the pod in its next round. The
    Job's finalizer keeps it until the Job has counted it.

    Args:
        observed: The observation.
        status: The run's status after this reconcile.
        jobset: The JobSet of the present attempt.
    """
    if jobset.deleting or jobset.suspended:
        return ()
    group = ProcessGroup(status.attempt, jobset.restarts)
    pods = [pod for pod in _own_pods(observed, jobset) if pod.group.attempt == group.attempt and pod.group <= group]
    if len(pods) > MAX_PODS:
        return ()
    failed = [pod for pod in pods if pod.deleting and pod.phase == "Failed" and not pod.deleted_by_force]
    peers = _peers(pods, group) if trains(status) else []
    return (
        *(Deletion("Pod", pod.name, pod.uid) for pod in peers),
        *(Deletion("Pod", pod.name, pod.uid, force=True) for pod in failed),
    )


def job_to_sync(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> tuple[JobSync, ...]:
    """The Job whose pod has failed first, so that the Job controller does not collect changes for another second; or
    none.

    One Job is enough: when it has failed, the JobSet replaces or stops all of them. A reserved exit code comes first,
    because it stops the run, and a process that ended because of another one is never the first.
    """
    if jobset.deleting or jobset.suspended or jobset.outcome != "running":
        return ()
    group = ProcessGroup(status.attempt, jobset.restarts)
    endings = {ending.uid: ending for ending in observed.endings}
    failed = [
        (_rank(endings[pod.uid]), pod)
        for pod in _own_pods(observed, jobset)
        if pod.group == group and pod.phase == "Failed" and pod.uid in endings and not is_echo(endings[pod.uid])
    ]
    if not failed:
        return ()
    _, first = min(failed, key=lambda one: (one[0], one[1].process))
    return (JobSync(names.job_name(observed.run.name, group.attempt, first.process.slice), first.job_uid),)


def _own_pods(observed: Observed, jobset: JobSetView) -> list[PodView]:
    own = frozenset({jobset.uid} - {""})
    return [pod for pod in observed.pods if is_own(pod, observed.run, own)]


def _peers(pods: list[PodView], group: ProcessGroup) -> list[PodView]:
    """The pods that run beside one that is being deleted.

    Only after the first step: before it, a process may not handle the signal as a preemption notice, and its exit would
    count as a failure.
    """
    peers = [pod for pod in pods if pod.group == group]
    return (
        [pod for pod in peers if pod.running and not pod.deleting and not pod.over]
        if any(pod.deleting for pod in peers)
        else []
    )


def _rank(ending: PodEnding) -> tuple[bool, datetime]:
    return ending.exit_code not in FATAL_CODES, ending.at
