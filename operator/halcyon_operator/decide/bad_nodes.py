"""Blames a node for an end, and chooses the nodes to avoid. Pure.

When one process ends, the others end too, so only the node of the first process can be blamed, and only if that process
is certain. Kubernetes writes whole seconds; processes that report that another process had ended before them do not
count. A process group on a single node blames no node, because the cause may be the program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from halcyon_api.ends import EndCause
from halcyon_api.spec.recovery import BadNodesSpec
from halcyon_api.status.run_status import MAX_BLAMES, AvoidedNode, Blame, PlacementStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.recovery import FAILURES
from halcyon_operator.model.endings import GroupEnd, cause_of, is_echo
from halcyon_operator.model.keys import ProcessGroup
from halcyon_operator.model.untrusted import moment, stamp
from halcyon_operator.model.views import Observed, PodEnding


def blamed_node(observed: Observed, group: ProcessGroup, end: GroupEnd) -> str:
    """The node on which the end of a process group began, if it was a failure and the node is certain; else empty."""
    if end.cause not in FAILURES or end.at is None:
        return ""
    endings = [ending for ending in observed.endings if ending.group == group]
    nodes = {ending.node for ending in endings} | {pod.node for pod in observed.pods if pod.group == group}
    first = {ending.node for ending in endings if ending.at == end.at and _began(ending)}
    return next(iter(first)) if len(first) == 1 and len(nodes - {""}) > 1 else ""


def with_no_room(observed: Observed, group: ProcessGroup, end: GroupEnd) -> GroupEnd:
    """The end of a process group, with cause `noRoom` if its processes gave up waiting for others whose pods had no
    node.
    """
    pods = [ending.node for ending in observed.endings if ending.group == group]
    pods += [pod.node for pod in observed.pods if pod.group == group]
    starved = end.cause == EndCause.FAILED and end.others_missing and not all(pods)
    return replace(end, cause=EndCause.NO_ROOM) if starved else end


def with_blame(placement: PlacementStatus, group: ProcessGroup, node: str, at: datetime) -> PlacementStatus:
    """The placement with one more blame."""
    if not node:
        return placement
    blame = Blame(node=node, time=stamp(at), attempt=group.attempt, restart=group.restart)
    return placement.model_copy(update={"blames": [*placement.blames, blame][-MAX_BLAMES:]})


def node_to_avoid(placement: PlacementStatus, spec: TrainingRunSpec, now: datetime) -> AvoidedNode | None:
    """The next node to avoid; None if there is none."""
    settings = spec.recovery.bad_nodes
    avoided = current_avoided(placement.avoided, settings, now)
    if settings.blames == 0 or len(avoided) >= settings.max_nodes or not _replaceable(spec):
        return None
    known = {node.node for node in avoided}
    counts = Counter(
        blame.node for blame in placement.blames if blame.node not in known and _fresh(blame.time, settings, now)
    )
    ranked = counts.most_common(2)
    if not ranked or ranked[0][1] < settings.blames or (len(ranked) > 1 and ranked[0][1] <= 2 * ranked[1][1]):
        return None
    return AvoidedNode(node=ranked[0][0], since=stamp(now), blames=ranked[0][1])


def current_avoided(avoided: Iterable[AvoidedNode], settings: BadNodesSpec, now: datetime) -> list[AvoidedNode]:
    """The avoided nodes without the expired ones."""
    return [node for node in avoided if settings.blames and _fresh(node.since, settings, now)]


def _fresh(time: str, settings: BadNodesSpec, now: datetime) -> bool:
    at = moment(time)
    return at is not None and now - at < timedelta(seconds=settings.expire_seconds)


def _began(ending: PodEnding) -> bool:
    """Whether the end of a pod may have ended its process group."""
    return ending.trouble == "exited" and cause_of(ending) in FAILURES and bool(ending.node) and not is_echo(ending)


def _replaceable(spec: TrainingRunSpec) -> bool:
    """Whether another node can replace a node.

    The nodes of a TPU slice of several hosts belong together, so none can be replaced.
    """
    return spec.accelerator.row.family != "tpu" or spec.accelerator.resolve().hosts_per_slice == 1
