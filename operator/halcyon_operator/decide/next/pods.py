"""Deletions of pods and Jobs: of held pods, of stuck pods, and of those that are replaced. Pure.

**Held pods** are kept alive by another container after their trainer has ended, such as the proxy of a service mesh.
The kubelet reports the end of a pod when all its containers have ended, so Job and JobSet wait for the other container.
But the trainer's end is the end of the run's work. So it counts after `HELD_SECONDS`, in which the other container may
end by itself: if all trainers have ended with exit code 0, the JobSet counts as completed, and is deleted. Any other
held pod is deleted: the kubelet then stops the container, and Job and JobSet act on the trainer's exit code. A native
sidecar (a container of `initContainers` with ``restartPolicy: Always``) holds no pod, because the kubelet stops it
after the trainer.

**Stuck pods** do not end, mostly because their node has failed or a controller has not removed its finalizer. A pod of
a failed node stays until a user confirms that its process has ended, and the run waits for it. To continue is safe for
the checkpoints: the next attempt has a newer epoch, and a process of an older one cannot commit any more. So the run's
condition names the pod and the fix, and if the owner allows it, the operator deletes the pod by force.

**Replaced pods**: where processes restart in place, the Job of a lost pod makes another one, and the other pods stay.
But it waits for ten seconds at first and then twice as long each time, and a JobSet makes a missing Job at once. So for
slices of one host the operator deletes the Job.
"""

from dataclasses import replace
from datetime import datetime

from halcyon_api import names
from halcyon_api.ends import ExitCode
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.next.guards import waits_for_guard
from halcyon_operator.decide.next.steps import Finish, Finished, Stall, StayStalled, Step
from halcyon_operator.decide.tell.pods import HELD_SECONDS, held_clause, held_container, on_node, with_stuck_description
from halcyon_operator.model.decision import Decision, Deletion, Event
from halcyon_operator.model.endings import cause_of, fails_job
from halcyon_operator.model.ownership import is_own
from halcyon_operator.model.views import JobSetView, Observed, PodEnding, Pods, PodView, ProcessGroup

_WAITING_PHASES = ("Pending", "Starting", "Restarting", "Suspending")
MAX_PODS = 64
"""Most Jobs that are deleted at once: the load of the requests on the API server is not worth the seconds."""
REPLACED_SECONDS = 600.0
"""Time after which the pod of a process may be replaced without the Job's pause again."""


def with_held_ends(observed: Observed) -> Observed:
    """The observation in which a JobSet has completed if all trainers of its process group have ended with 0 and
    containers hold pods.
    """
    return replace(observed, jobsets=tuple(_with_held_end(observed, jobset) for jobset in observed.jobsets))


def _with_held_end(observed: Observed, jobset: JobSetView) -> JobSetView:
    pods = _group_pods(observed, jobset)
    container = next((name for pod in pods if (name := held_container(pod))), "")
    topology = observed.run.status.topology
    if not container or topology is None or len(pods) < topology.hosts:
        return jobset
    endings = [pod.ending for pod in pods if pod.ending and pod.ending.ended and pod.ending.exit_code == 0]
    last = max((ending.at for ending in endings), default=observed.now)
    if len(endings) < len(pods) or _seconds(last, observed.now) < HELD_SECONDS:
        return jobset
    return replace(jobset, outcome="completed", finished_at=last, held_by=container)


def with_held_pods(decision: Decision, observed: Observed, step: Step, jobset: JobSetView | None) -> Decision:
    """The decision, with the deletions that release the hardware of held pods, and the time of the next look at them.

    Args:
        decision: The decision.
        observed: The observation, of `with_held_ends`.
        step: The step that the decision carries out.
        jobset: The JobSet of the present attempt.
    """
    if jobset is None or jobset.deleting:
        return decision
    if jobset.held_by:
        if not isinstance(step, Finish | Finished | Stall | StayStalled):
            return decision
        return replace(decision, delete=(*decision.delete, Deletion("JobSet", jobset.name, jobset.uid)))
    held = [
        (pod, pod.ending.exit_code, HELD_SECONDS - _seconds(pod.ending.at, observed.now))
        for pod in _group_pods(observed, jobset)
        if held_container(pod) and pod.ending
    ]
    due = [pod for pod, exit_code, left in held if exit_code != 0 and left <= 0]
    gone = tuple(Deletion("Pod", pod.name, pod.uid) for pod in due)
    events = tuple(
        Event("Warning", "PodHeld", f"Deleting pod {pod.name}: {held_clause(pod)}", f"held/{pod.uid}") for pod in due
    )
    waits = (left for *_, left in held if left > 0)
    again = min((seconds for seconds in (decision.requeue_after, *waits) if seconds is not None), default=None)
    return replace(decision, delete=decision.delete + gone, events=decision.events + events, requeue_after=again)


def _group_pods(observed: Observed, jobset: JobSetView) -> list[PodView]:
    """The pods of the JobSet's process group."""
    group, own = ProcessGroup(jobset.attempt, jobset.restarts), frozenset({jobset.uid} - {""})
    running = jobset.outcome == "running" and not jobset.deleting and not jobset.suspended
    return [pod for pod in observed.pods_of(group) if is_own(pod, observed.run, own)] if running else []


def _seconds(start: datetime, now: datetime) -> float:
    return max(0.0, (now - start).total_seconds())


def stuck_pods(observed: Observed) -> Pods:
    """Pods of the run that still exist long after their grace period, the longest waiting first."""
    waited, after = observed.deleting_seconds, observed.settings.stuck_pods.after_seconds
    pods = {
        pod.uid: pod
        for pod in (*observed.pods, *observed.earlier_pods)
        if pod.deleting and (pod.finalizers or not pod.over)
    }
    stuck = [pod for pod in pods.values() if waited.get(pod.uid, 0.0) >= pod.grace_seconds + after]
    return tuple(sorted(stuck, key=lambda pod: (-waited[pod.uid], pod.name)))


def with_stuck_pods(decision: Decision, observed: Observed) -> Decision:
    """The decision with a description of stuck pods and, if the owner allows it, with their deletion by force."""
    pods = stuck_pods(observed)
    if decision.status is None or not pods or decision.status.phase not in _WAITING_PHASES:
        return decision
    status = with_stuck_description(decision.status, observed, pods)
    allowed = observed.settings.stuck_pods.force_delete
    own = {pod.uid for pod in observed.pods}
    ours = [pod for pod in pods if allowed and pod.uid in own and not pod.finalizers]
    gone = tuple(Deletion("Pod", pod.name, pod.uid, force=True) for pod in ours)
    events = tuple(
        Event(
            "Warning",
            "PodForceDeleted",
            f"Pod {pod.name}{on_node(pod)} did not end by itself, and is deleted by force",
            f"force/{pod.uid}",
        )
        for pod in ours
    )
    return replace(decision, status=status, delete=decision.delete + gone, events=decision.events + events)


def jobs_to_replace(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> tuple[Deletion, ...]:
    """The Jobs of one pod to delete, because this pod has ended and is replaced alone.

    Not after an end that fails the Job, after a second failure without a checkpoint, or if its process had another pod
    a short time ago: then the Job's pause, which grows, is right. Not before the guard of a node that is avoided.

    Args:
        observed: The observation.
        status: The run's status after this reconcile.
        jobset: The JobSet of the present attempt.
    """
    topology = status.topology
    if not jobset.in_place or topology is None or topology.hosts != topology.slices:
        return ()
    lost = [
        pod
        for pod in _group_pods(observed, jobset)
        if pod.phase == "Failed" and pod.ending and _replaced_at_once(pod.ending, observed, status)
    ]
    return tuple(
        Deletion("Job", names.job_name(observed.run.name, status.attempt, pod.process.slice), pod.job_uid)
        for pod in lost[:MAX_PODS]
    )


def _replaced_at_once(ending: PodEnding, observed: Observed, status: TrainingRunStatus) -> bool:
    place = ending.group, ending.process
    again = any(
        (one.group, one.process) == place and _seconds(one.at, observed.now) < REPLACED_SECONDS
        for one in observed.replaced
    )
    failed = cause_of(ending).end.budget == "failure" and status.failures_without_checkpoint > 0
    waits = waits_for_guard(observed, status, ending.node)
    if waits or ending.exit_code == ExitCode.LEAVES_NODE:
        return not waits
    return not (again or failed or fails_job(ending) or ending.trouble == "rejected")
