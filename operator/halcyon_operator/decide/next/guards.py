"""One pod leaves a node that the run avoids, and the other pods stay. Pure.

The template of an attempt cannot change, so it always keeps pods off the nodes of guards: pods of JobSets of the run
that do nothing. When the run avoids a node in the middle of an attempt (`status.placement.avoided`), a guard is made
there. Once the scheduler has bound it, the run's pod there is deleted, and its Job makes another one elsewhere. The
template of the next attempt names the node itself, so the guard is deleted with the attempt.

The guard has `PATIENCE_SECONDS`: if a quota forbids it, or the node takes no more pods, all pods are replaced.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from halcyon_api import names
from halcyon_api.ends import EndCause, ExitCode
from halcyon_api.status.run_status import AvoidedNode, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.next.bad_nodes import current_avoided
from halcyon_operator.decide.next.steps import Keep, Situation, Step, Stop
from halcyon_operator.decide.record.placement import left_alone
from halcyon_operator.model.decision import Decision, Deletion, GuardPlan
from halcyon_operator.model.history import present_group
from halcyon_operator.model.ownership import is_own, own_jobset_uids
from halcyon_operator.model.untrusted import seconds_between
from halcyon_operator.model.views import Observed, PodView

PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 2.0


def _to_guard(status: TrainingRunStatus, spec: TrainingRunSpec, now: datetime) -> list[AvoidedNode]:
    avoided = status.placement.avoided if status.placement is not None else ()
    return [one for one in current_avoided(avoided, spec.recovery.bad_nodes, now) if one.attempt == status.attempt]


def has_left(observed: Observed, status: TrainingRunStatus) -> bool:
    """Whether a pod of the present process group has ended because its process failed twice, so that nobody trains."""
    pods = observed.pods_of(present_group(status))
    return any(pod.ending and pod.ending.exit_code == ExitCode.LEAVES_NODE for pod in pods)


def unguarded(situation: Situation) -> Stop | None:
    """All pods are replaced where a node has got no guard in time, and has a pod of the run."""
    observed, status, now = situation.observed, situation.status, situation.observed.now
    for one in _to_guard(status, situation.spec, now):
        late = seconds_between(one.since, now) >= PATIENCE_SECONDS and not _guarded(observed, one.node)
        if late and _on(one.node, observed.pods_of(present_group(status))):
            return Stop(EndCause.MOVED, f"node {one.node} is avoided, and its guard is not there: replacing all pods")
    return None


def waits_for_guard(observed: Observed, status: TrainingRunStatus, node: str) -> bool:
    """Whether a new pod might still come back to a node that the run avoids."""
    return node in left_alone(status) and not _guarded(observed, node)


def _guarded(observed: Observed, node: str) -> bool:
    """Whether the scheduler keeps new pods of the run off a node: it counts a pod from its binding to its end, even if
    the pod does not run.
    """
    name = names.guard_name(observed.run.name, node)
    return any(guard.jobset.name == name and _on(node, guard.pods) for guard in observed.guards)


def _on(node: str, pods: Iterable[PodView]) -> list[PodView]:
    """The pods on a node that are not about to leave it."""
    return [pod for pod in pods if pod.node == node and not (pod.deleting or pod.over)]


def with_guards(decision: Decision, observed: Observed, step: Step) -> Decision:
    """The decision, with the creations and deletions of guards, and the deletions of pods that leave their nodes."""
    status, spec, run = decision.status, observed.run.spec, observed.run
    if status is None or spec is None:
        return decision
    nodes = [one.node for one in _to_guard(status, spec, observed.now)] if isinstance(step, Keep) else []
    wanted = {names.guard_name(run.name, node): GuardPlan(run, spec, observed.settings, node) for node in nodes}
    there = {guard.jobset.name: guard.jobset for guard in observed.guards if guard.jobset.owner_uid == run.uid}
    surplus = [jobset for name, jobset in there.items() if name not in wanted and not jobset.deleting]
    guarded = [node for node in nodes if _guarded(observed, node)]
    own = own_jobset_uids(run, observed.jobsets)
    pods = [pod for pod in observed.pods_of(present_group(status)) if is_own(pod, run, own)]
    gone = [Deletion("JobSet", one.name, one.uid) for one in surplus]
    gone += [Deletion("Pod", pod.name, pod.uid) for node in guarded for pod in _on(node, pods)]
    return replace(
        decision,
        delete=(*decision.delete, *gone),
        create=(*decision.create, *(plan for name, plan in wanted.items() if name not in there)),
        requeue_after=LOOK_SECONDS if len(guarded) < len(nodes) else decision.requeue_after,
    )
