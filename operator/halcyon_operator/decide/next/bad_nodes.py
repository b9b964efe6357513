"""The nodes that attempts avoid. Pure.

An audit of two slices may find that one of two nodes computes wrong numbers, and not which. Then one of them is
avoided. If the other one is suspected again, beside a third node, it is the wrong one, and the first one may be used
again. A node that only rejects pods is used again where no other node has room: if all nodes reject pods, the run goes
on as soon as one of them takes them.

A node whose process is slow is avoided once. If no other node has room, the run goes on there, and slowly.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

from halcyon_api.spec.recovery import BadNodesSpec
from halcyon_api.status.run_status import AvoidedNode, Blame, PlacementStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.untrusted import moment, stamp


def node_to_avoid(placement: PlacementStatus, spec: TrainingRunSpec, now: datetime) -> AvoidedNode | None:
    """The next node to avoid; None if there is none."""
    settings = spec.recovery.bad_nodes
    if settings.blames == 0 or not _replaceable(spec):
        return None
    fresh = [blame for blame in placement.blames if _fresh(blame.time, settings, now)]
    avoided = {one.node for one in current_avoided(placement.avoided, settings, now)}
    candidates = [blame for blame in fresh if blame.node not in avoided]
    name = _proved(candidates) or _suspected(fresh, avoided) or _blamed(candidates, settings.blames)
    name = name or _rejecting(candidates, settings.blames)
    if spec.recovery.straggler and spec.recovery.straggler.action == "replace":
        name = name or _slow(candidates)
    if name is None:
        return None
    node = AvoidedNode(node=name, since=stamp(now), blames=sum(blame.node == name for blame in fresh))
    return None if len(others_to_avoid(placement, node, settings, now)) >= settings.max_nodes else node


def others_to_avoid(
    placement: PlacementStatus, node: AvoidedNode, settings: BadNodesSpec, now: datetime
) -> list[AvoidedNode]:
    """The nodes that are still avoided beside a new one: not those that were suspected only beside it.

    Args:
        placement: The run's placement.
        node: The new one.
        settings: ``spec.recovery.badNodes``.
        now: The time.
    """
    fresh = [blame for blame in placement.blames if _fresh(blame.time, settings, now)]
    beside = {(blame.attempt, blame.restart) for blame in fresh if blame.node == node.node}

    def explained(name: str) -> bool:
        own = [blame for blame in fresh if blame.node == name]
        return bool(own) and all(blame.corrupted is False and (blame.attempt, blame.restart) in beside for blame in own)

    return [one for one in current_avoided(placement.avoided, settings, now) if not explained(one.node)]


def only_rejects(placement: PlacementStatus, node: str) -> bool:
    """Whether a node is blamed for nothing but rejected pods."""
    own = [blame for blame in placement.blames if blame.node == node]
    return bool(own) and all(blame.rejected for blame in own)


def found_slow(placement: PlacementStatus, node: str) -> int | None:
    """The step at which the process on a node was found slow; None: it was not."""
    return next((blame.slow for blame in placement.blames if blame.node == node and blame.slow), None)


def current_avoided(avoided: Iterable[AvoidedNode], settings: BadNodesSpec, now: datetime) -> list[AvoidedNode]:
    """The avoided nodes without the expired ones."""
    return [node for node in avoided if settings.blames and _fresh(node.since, settings, now)]


def _proved(blames: Iterable[Blame]) -> str | None:
    """A node whose numbers an audit found wrong."""
    return next((blame.node for blame in blames if blame.corrupted), None)


def _suspected(blames: Iterable[Blame], avoided: set[str]) -> str | None:
    """A node of the last suspicion: the one that was suspected before too, else any. None: one of them is avoided."""
    suspicions: dict[tuple[int, int], set[str]] = {}
    for blame in blames:
        if blame.corrupted is False:
            suspicions.setdefault((blame.attempt, blame.restart), set()).add(blame.node)
    if not suspicions:
        return None
    *before, last = suspicions.values()
    if last & avoided:
        return None
    times = Counter(node for nodes in before for node in nodes)
    return max(sorted(last), key=lambda node: times[node])


def _blamed(blames: Iterable[Blame], least: int) -> str | None:
    """A node with enough ordinary blames, and more than twice as many as any other node."""
    ordinary = (blame for blame in blames if blame.corrupted is None and not blame.rejected and blame.slow is None)
    counts = Counter(blame.node for blame in ordinary)
    ranked = counts.most_common(2)
    if not ranked or ranked[0][1] < least or (len(ranked) > 1 and ranked[0][1] <= 2 * ranked[1][1]):
        return None
    return ranked[0][0]


def _rejecting(blames: Iterable[Blame], least: int) -> str | None:
    """The node that has rejected most pods, if they are enough."""
    counts = Counter(blame.node for blame in blames if blame.rejected)
    return next((node for node, count in counts.most_common(1) if count >= least), None)


def _slow(blames: Collection[Blame]) -> str | None:
    """A node whose process is slow, and that the run has not come back to because no other node had room."""
    back = {blame.node for blame in blames if blame.slow == 0}
    return next((blame.node for blame in blames if blame.slow and blame.node not in back), None)


def _fresh(time: str, settings: BadNodesSpec, now: datetime) -> bool:
    at = moment(time)
    return at is not None and now - at < timedelta(seconds=settings.expire_seconds)


def _replaceable(spec: TrainingRunSpec) -> bool:
    """Whether another node can replace a node.

    The nodes of a TPU slice of several hosts belong together, so none can be replaced.
    """
    return spec.accelerator.row.family != "tpu" or spec.accelerator.resolve().hosts_per_slice == 1
