"""Pods that another container keeps alive after their trainer has ended, such as the proxy of a service mesh. Pure.

The kubelet reports the end of a pod when all its containers have ended, so Job and JobSet wait for the other container.
But the trainer's end is the end of the run's work. So it counts after `HELD_SECONDS`, in which the other container may
end by itself: if all trainers have ended with exit code 0, the JobSet counts as completed, and is deleted. Any other
held pod is deleted: the kubelet then stops the container, and Job and JobSet act on the trainer's exit code. A native
sidecar (a container of `initContainers` with ``restartPolicy: Always``) holds no pod, because the kubelet stops it
after the trainer.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from halcyon_operator.decide.steps import Finish, Finished, Stall, StayStalled, Step
from halcyon_operator.model.decision import Decision, Deletion, Event
from halcyon_operator.model.keys import ProcessGroup
from halcyon_operator.model.ownership import is_own
from halcyon_operator.model.reasons import StartReason
from halcyon_operator.model.views import JobSetView, Observed, PodView

HELD_SECONDS = 20.0
"""Seconds after the trainer's end in which the other containers of its pod may end by themselves."""
HELD: StartReason = "PodHeld"
"""Reason of a run that waits for such a container."""


def held_container(pod: PodView) -> str:
    """The container that keeps a pod alive after its trainer has ended; empty: none does."""
    alive = pod.ending is not None and pod.ending.ended and not pod.over and not pod.deleting
    return next(iter(pod.other_containers), "") if alive else ""


def with_held_ends(observed: Observed, now: datetime) -> Observed:
    """The observation in which a JobSet has completed if all trainers of its process group have ended with 0 and
    containers hold pods.
    """
    return replace(observed, jobsets=tuple(_with_held_end(observed, jobset, now) for jobset in observed.jobsets))


def _with_held_end(observed: Observed, jobset: JobSetView, now: datetime) -> JobSetView:
    pods = _pods(observed, jobset)
    container = next((name for pod in pods if (name := held_container(pod))), "")
    topology = observed.run.status.topology
    if not container or topology is None or len(pods) < topology.hosts:
        return jobset
    endings = [pod.ending for pod in pods if pod.ending is not None and pod.ending.ended and pod.ending.exit_code == 0]
    last = max((ending.at for ending in endings), default=now)
    if len(endings) < len(pods) or _seconds(last, now) < HELD_SECONDS:
        return jobset
    return replace(jobset, outcome="completed", finished_at=last, held_by=container)


def with_held_pods(
    decision: Decision, observed: Observed, step: Step, jobset: JobSetView | None, now: datetime
) -> Decision:
    """The decision, with the deletions that release the hardware of held pods, and the time of the next look at them.

    Args:
        decision: The decision.
        observed: The observation, of `with_held_ends`.
        step: The step that the decision carries out.
        jobset: The JobSet of the present attempt.
        now: The time.
    """
    if jobset is None or jobset.deleting:
        return decision
    if jobset.held_by:
        if not isinstance(step, Finish | Finished | Stall | StayStalled):
            return decision
        return replace(decision, delete=(*decision.delete, Deletion("JobSet", jobset.name, jobset.uid)))
    held = [pod for pod in _pods(observed, jobset) if held_container(pod) and pod.ending is not None]
    due = [
        pod
        for pod in held
        if pod.ending is not None and pod.ending.exit_code != 0 and _since_end(pod, now) >= HELD_SECONDS
    ]
    known = {(deletion.kind, deletion.uid) for deletion in decision.delete}
    gone = tuple(Deletion("Pod", pod.name, pod.uid) for pod in due if ("Pod", pod.uid) not in known)
    events = tuple(
        Event("Warning", "PodHeld", f"Deleting pod {pod.name}: {held_clause(pod)}", f"held/{pod.uid}") for pod in due
    )
    waits = [HELD_SECONDS - _since_end(pod, now) for pod in held if _since_end(pod, now) < HELD_SECONDS]
    again = min((seconds for seconds in (decision.requeue_after, *waits) if seconds is not None), default=None)
    return replace(decision, delete=decision.delete + gone, events=decision.events + events, requeue_after=again)


def held_clause(pod: PodView) -> str:
    """Clause about a held pod."""
    return f"its trainer has ended, and the container {held_container(pod)} keeps it alive"


def held_sentence(pods: list[PodView]) -> str | None:
    """One sentence about the first held pod of a process group; None: there is none."""
    held = [pod for pod in pods if held_container(pod)]
    if not held:
        return None
    others = f", and {len(held) - 1} more" if len(held) > 1 else ""
    return (
        f"pod {held[0].name}{others}: {held_clause(held[0])}; {HELD_SECONDS:.0f} s after its end, the trainer's exit "
        "code decides"
    )


def _pods(observed: Observed, jobset: JobSetView) -> list[PodView]:
    """The pods of the JobSet's process group."""
    group, own = ProcessGroup(jobset.attempt, jobset.restarts), frozenset({jobset.uid} - {""})
    running = jobset.outcome == "running" and not jobset.deleting and not jobset.suspended
    return [pod for pod in observed.pods if pod.group == group and is_own(pod, observed.run, own)] if running else []


def _since_end(pod: PodView, now: datetime) -> float:
    return _seconds(pod.ending.at, now) if pod.ending is not None else 0.0


def _seconds(start: datetime, now: datetime) -> float:
    return max(0.0, (now - start).total_seconds())
