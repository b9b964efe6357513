"""Sentences about pods that do not start, are kept alive by another container, or do not end. Pure.

The status shows identifiers and the operator's own sentences about them. Text from a node or a controller may be long
and is untrusted, so only the newest event is shown, cleaned and cut (`pod_events`).
"""

import re
from collections.abc import Sequence
from datetime import datetime

from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.tell import conditions
from halcyon_operator.model.ownership import late_pods
from halcyon_operator.model.reasons import StartReason
from halcyon_operator.model.untrusted import stamp
from halcyon_operator.model.views import NOT_REACHED, Observed, Pods, PodView, PodWarning

_WAITING_REASONS: dict[str, StartReason] = {
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "ErrImageNeverPull": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
    "RegistryUnavailable": "ImagePullFailed",
    "ImageInspectError": "ImagePullFailed",
    "CreateContainerConfigError": "ContainerConfigInvalid",
    "CreateContainerError": "ContainerConfigInvalid",
    "RunContainerError": "ContainerConfigInvalid",
    "CrashLoopBackOff": "ContainerConfigInvalid",
    "Unschedulable": "Unschedulable",
    "SchedulingGated": "Unschedulable",
}
"""The run's reason for each reason of the kubelet or the scheduler why a pod does not start.

The pod starts once the cause is removed.
"""


_REASON = re.compile(r"[A-Za-z0-9]{1,64}")
HELD_SECONDS = 20.0
"""Seconds after the trainer's end in which the other containers of its pod may end by themselves."""
NO_ANSWER = "the JobSet controller does not answer; check the deployment jobset-controller-manager"
HELD: StartReason = "PodHeld"
"""Reason of a run that waits for such a container."""


def start_problem(
    pods: list[PodView], attempt: int, now: datetime, warning: PodWarning | None
) -> tuple[StartReason, str] | None:
    """Reason and message why the pods of a process group do not start; None if they may still start.

    The first pod that has a reason comes first, then the first late pod, then pods that are not made.

    Args:
        pods: The pods of the process group.
        attempt: The attempt.
        now: The time.
        warning: The newest warning event about one of the pods, or about a Job or JobSet that cannot make them.
    """
    for pod in sorted(pods, key=lambda pod: pod.process):
        if (reason := _WAITING_REASONS.get(pod.waiting_reason)) is not None:
            details = f": {pod.waiting_message}" if pod.waiting_message else ""
            return reason, f"pod {pod.name} does not start, {pod.waiting_reason}{_init_clause(pod)}{details}"
    if late := late_pods(pods, now):
        first = late[0]
        since = stamp(first.scheduled_at) if first.scheduled_at is not None else ""
        shown = first.waiting_reason if _REASON.fullmatch(first.waiting_reason) else "no reason is given"
        why = f"{shown}{_init_clause(first)}{_why_late(first, warning)}"
        sentence = f"pod {first.name}{on_node(first)} has not started since {since}{_more(late)}: {why}"
        return conditions.NOT_STARTING, f"attempt {attempt}: {sentence}"
    if warning and not warning.reason:
        return conditions.SILENT, f"attempt {attempt}: there is no Job {warning.name} yet: {NO_ANSWER}"
    if warning and warning.kind != "Pod":
        sentence = f"{warning.kind} {warning.name} cannot make its pods, {warning.reason}: {warning.message}"
        return conditions.REFUSED, f"attempt {attempt}: {sentence}"
    return None


def _init_clause(pod: PodView) -> str:
    return f" of init container {pod.waiting_for}" if pod.waiting_for else ""


def _why_late(pod: PodView, warning: PodWarning | None) -> str:
    """The cause, from the pod's events or else its conditions, and the command that shows more."""
    if warning is not None and (warning.kind, warning.name) == ("Pod", pod.name):
        return f"; {warning.reason}: {warning.message}; `kubectl describe pod {pod.name}` has all its events"
    if pod.waiting_reason == NOT_REACHED:
        return "; ssh or srun has started nothing there yet"
    describe = f"`kubectl describe pod {pod.name}` names the cause"
    if pod.waiting_for or pod.waiting_reason not in ("", "ContainerCreating", "PodInitializing"):
        return f"; {describe}"
    if pod.sandbox_ready is False:
        return (
            "; its volumes are not mounted, or its network is not there (FailedMount, FailedCreatePodSandBox): "
            f"{describe}"
        )
    if pod.sandbox_ready is True:
        return f"; its volumes and its network are there, and its image is not: {describe}"
    return f"; a volume, its network or its image is missing: {describe}"


def on_node(pod: PodView) -> str:
    """Clause about the node of a pod, if it has one."""
    return f" on node {pod.node}" if pod.node else ""


def _more(pods: Sequence[PodView]) -> str:
    """Clause about the pods after the first one."""
    return f", and {len(pods) - 1} more" if len(pods) > 1 else ""


def held_container(pod: PodView) -> str:
    """The container that keeps a pod alive after its trainer has ended; empty: none does."""
    alive = pod.ending and pod.ending.ended and not pod.over and not pod.deleting
    return next(iter(pod.other_containers), "") if alive else ""


def held_clause(pod: PodView) -> str:
    """Clause about a held pod."""
    return f"its trainer has ended, and the container {held_container(pod)} keeps it alive"


def held_sentence(pods: list[PodView]) -> str | None:
    """One sentence about the first held pod of a process group; None: there is none."""
    held = [pod for pod in pods if held_container(pod)]
    if not held:
        return None
    return (
        f"pod {held[0].name}{_more(held)}: {held_clause(held[0])}; {HELD_SECONDS:.0f} s after its end, the trainer's "
        "exit code decides"
    )


def with_stuck_description(status: TrainingRunStatus, observed: Observed, pods: Pods) -> TrainingRunStatus:
    """The status with a description of the first stuck pod and of the fix, unless the run is stalled."""
    description = conditions.recorded_description(status)
    if description.stalled:
        return status
    first, run = pods[0], observed.run
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
    message = f"pod {first.name}{on_node(first)} should have ended by {since} and is still there{_more(pods)}; {fix}"
    stuck = conditions.Description(description.phase, conditions.STUCK_TERMINATING, message)
    return conditions.with_description(status, stuck, run.generation, observed.now)
