"""A world lives and dies as one: when one of its pods is sent away, the others are sent away with it. Pure.

They would end by themselves, for their peers tell them and save together with them. But a kubelet looks only once a second for a
container that has ended by itself, and the Job controller begins to count its own second after that; where a pod is being deleted, the
kubelet waits for the end. So this spares up to a second of every restart, and a run goes on without it while the operator is away.
"""

from __future__ import annotations

from halcyon_api.status import TrainingRunStatus
from halcyon_operator.decide.placement import trains
from halcyon_operator.model.decision import Deletion
from halcyon_operator.model.keys import ProcessGroup
from halcyon_operator.model.ownership import is_own
from halcyon_operator.model.views import JobSetView, Observed

MAX_PODS = 64
"""Of a larger world nobody is sent away: so many requests cost the API server more than the second is worth."""


def peers_to_delete(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> tuple[Deletion, ...]:
    """The pods of the present world to delete, because one of it is being deleted.

    Only in a world that has trained: a process that has not come so far may not take the signal as a notice, and what it ends with would
    count as a failure.

    Args:
        observed: All that was looked at.
        status: The run's status after this look.
        jobset: The JobSet of the present attempt.
    """
    if jobset.deleting or jobset.suspended or not trains(status):
        return ()
    own, group = frozenset({jobset.uid} - {""}), ProcessGroup(status.attempt, jobset.restarts)
    peers = [pod for pod in observed.pods if pod.group == group and is_own(pod, observed.run, own)]
    if len(peers) > MAX_PODS or not any(pod.deleting for pod in peers):
        return ()
    return tuple(Deletion("Pod", pod.name, pod.uid) for pod in peers if pod.running and not pod.deleting and not pod.over)
