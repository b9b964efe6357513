"""Pods that do not end, mostly because their node has failed or a controller has not removed its finalizer. Pure.

A pod of a failed node stays until a user confirms that its process has ended, and the run waits for it. To continue is
safe for the checkpoints: the next attempt has a newer epoch, and a process of an older one cannot commit any more. So
the run's condition names the pod and the fix, and if the owner allows it, the operator deletes the pod by force. The
status shows only identifiers and the operator's own sentences."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.conditions import STUCK_TERMINATING, Description, with_description
from halcyon_operator.decide.describe import recorded_description
from halcyon_operator.model.decision import Decision, Deletion, Event
from halcyon_operator.model.untrusted import stamp
from halcyon_operator.model.views import Observed, PodView

_WAITING_PHASES = ("Pending", "Starting", "Restarting", "Suspending")


def stuck_pods(observed: Observed) -> tuple[PodView, ...]:
    """Pods of the run that still exist long after their grace period, the longest waiting first."""
    waited, after = observed.deleting_seconds, observed.settings.stuck_pods.after_seconds
    pods = {
        pod.uid: pod
        for pod in (*observed.pods, *observed.earlier_pods)
        if pod.deleting and (pod.finalizers or not pod.over)
    }
    stuck = [pod for pod in pods.values() if waited.get(pod.uid, 0.0) >= pod.grace_seconds + after]
    return tuple(sorted(stuck, key=lambda pod: (-waited[pod.uid], pod.name)))


def with_stuck_pods(decision: Decision, observed: Observed, now: datetime) -> Decision:
    """The decision with a description of stuck pods and, if the owner allows it, with their deletion by force."""
    pods = stuck_pods(observed)
    if decision.status is None or not pods or decision.status.phase not in _WAITING_PHASES:
        return decision
    status = _describe(decision.status, observed, pods, now)
    own = {pod.uid for pod in observed.pods}
    if not observed.settings.stuck_pods.force_delete or not (
        ours := [pod for pod in pods if pod.uid in own and not pod.finalizers]
    ):
        return replace(decision, status=status)
    gone = tuple(Deletion("Pod", pod.name, pod.uid, force=True) for pod in ours)
    events = tuple(
        Event(
            "Warning",
            "PodForceDeleted",
            f"Pod {pod.name}{_on(pod)} did not end by itself, and is deleted by force",
            f"force/{pod.uid}",
        )
        for pod in ours
    )
    return replace(decision, status=status, delete=decision.delete + gone, events=decision.events + events)


def _describe(
    status: TrainingRunStatus, observed: Observed, pods: tuple[PodView, ...], now: datetime
) -> TrainingRunStatus:
    description = recorded_description(status)
    if description.stalled:
        return status
    first, run = pods[0], observed.run
    others = f", and {len(pods) - 1} more" if len(pods) > 1 else ""
    since = stamp(first.gone_by) if first.gone_by is not None else ""
    if first.finalizers:
        patch = (
            f"kubectl patch pod {first.name} --namespace {run.namespace} --type=merge --patch "
            f'\'{{"metadata":{{"finalizers":null}}}}\''
        )
        fix = f"its finalizer {first.finalizers[0]} keeps it: mend the controller that set it, or remove it (`{patch}`)"
    elif observed.settings.stuck_pods.force_delete:
        fix = "the operator deletes it by force, as its owner allows"
    else:
        delete = f"kubectl delete pod {first.name} --namespace {run.namespace} --force --grace-period=0"
        taint = f"kubectl taint node {first.node} node.kubernetes.io/out-of-service=gone:NoExecute"
        fix = f"if the node is gone, delete the pod (`{delete}`)" + (
            f" or taint the node (`{taint}`)" if first.node else ""
        )
    message = f"pod {first.name}{_on(first)} should have ended by {since} and is still there{others}; {fix}"
    stuck = Description(description.phase, STUCK_TERMINATING, message)
    return with_description(status, stuck, run.generation, now)


def _on(pod: PodView) -> str:
    return f" on node {pod.node}" if pod.node else ""
