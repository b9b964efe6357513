"""When one pod of a process group is deleted, the operator deletes the others too. Pure.

The others would end anyway, because the processes notify each other and save together. But a kubelet checks only once a second for an ended
container, and after that the Job controller waits up to another second. For a deleted pod the kubelet waits actively. So this makes a
restart up to a second faster; without the operator a run restarts too."""

from __future__ import annotations

from halcyon_api.status import TrainingRunStatus
from halcyon_operator.decide.placement import trains
from halcyon_operator.model.decision import Deletion
from halcyon_operator.model.keys import ProcessGroup
from halcyon_operator.model.ownership import is_own
from halcyon_operator.model.views import JobSetView, Observed

MAX_PODS = 64
"""In a larger process group no pod is deleted: the load of the requests on the API server is not worth the second."""


def peers_to_delete(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> tuple[Deletion, ...]:
    """The pods of the present process group to delete, because one of them is being deleted.

    Only after the first step: before it, a process may not handle the signal as a preemption notice, and its exit would count as a failure.

    Args:
        observed: The observation.
        status: The run's status after this reconcile.
        jobset: The JobSet of the present attempt.
    """
    if jobset.deleting or jobset.suspended or not trains(status):
        return ()
    own, group = frozenset({jobset.uid} - {""}), ProcessGroup(status.attempt, jobset.restarts)
    peers = [pod for pod in observed.pods if pod.group == group and is_own(pod, observed.run, own)]
    if len(peers) > MAX_PODS or not any(pod.deleting for pod in peers):
        return ()
    return tuple(Deletion("Pod", pod.name, pod.uid) for pod in peers if pod.running and not pod.deleting and not pod.over)
