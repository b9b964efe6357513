"""The slices of the next attempt, and the nodes that it avoids. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from halcyon_api.elastic import usable_slices, wanted_slices
from halcyon_api.spec.operations import BadNodesSpec, ElasticSpec
from halcyon_api.status.placement import AvoidedNode, PlacementStatus
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.next.recovery import Capacity
from halcyon_operator.decide.record.placement import placement_of, whole_slices
from halcyon_operator.model.history import present_group
from halcyon_operator.model.untrusted import moment, seconds_between, stamp
from halcyon_operator.model.views import Observed, PodView


def capacity_of(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, now: datetime) -> Capacity:
    """Whether there is room for the run."""
    placement = placement_of(status, spec)
    if placement.waiting_since is None:
        return "more" if placement.room_since is not None else "enough"
    waited = seconds_between(placement.waiting_since, now)
    elastic = spec.recovery.elastic
    if elastic is not None and waited >= patience(placement, elastic) and smaller(observed, status, spec) is not None:
        return "fewer"
    settings = spec.recovery.bad_nodes
    return (
        "avoided"
        if current_avoided(placement.avoided, settings, now) and waited >= settings.give_up_seconds
        else "short"
    )


def smaller(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> int | None:
    """The largest usable number of slices that have nodes and is below the attempt's number; None if there is none."""
    placed = whole_slices([pod for pod in _own(observed, status) if pod.node and not pod.deleting], spec)
    slices = placement_of(status, spec).slices
    return max((number for number in usable_slices(spec) if number <= placed and number < slices), default=None)


def first_slices(status: TrainingRunStatus, spec: TrainingRunSpec, *, fresh: bool) -> int:
    """The number of slices of the next attempt.

    Args:
        status: The run's status.
        spec: The run's spec.
        fresh: Whether the recorded room is out of date.
    """
    placement = placement_of(status, spec)
    known = placement.slices in usable_slices(spec) and placement.wanted_slices == wanted_slices(spec)
    return placement.slices if known and not fresh else spec.accelerator.slices


def next_placement(status: TrainingRunStatus, spec: TrainingRunSpec, now: datetime, *, fresh: bool) -> PlacementStatus:
    """The placement of the next attempt.

    With `fresh` all blames are dropped, because the user has handled the failures.
    """
    before, slices = placement_of(status, spec), first_slices(status, spec, fresh=fresh)
    return PlacementStatus(
        slices=slices,
        wanted_slices=wanted_slices(spec),
        reason=before.reason if slices < spec.accelerator.slices else None,
        avoided=[] if fresh else current_avoided(before.avoided, spec.recovery.bad_nodes, now),
        blames=[] if fresh else before.blames,
        grown_from=None if fresh else before.grown_from,
        grown_at=None if fresh else before.grown_at,
        lost_growths=0 if fresh else before.lost_growths,
        grow_not_before=None if fresh else before.grow_not_before,
    )


def _own(observed: Observed, status: TrainingRunStatus) -> list[PodView]:
    return observed.pods_of(present_group(status))


def patience(placement: PlacementStatus, elastic: ElasticSpec) -> float:
    """Seconds for which pods may wait for a node before the run continues with fewer slices."""
    if placement.grown_from is None:
        return elastic.shrink_after_seconds
    return GROWN_PATIENCE_SECONDS


GROWN_PATIENCE_SECONDS = 60.0
"""Longest wait for nodes after a growth. There was room before, so after this time another run has taken it.

It is longer than the time for which the probe holds the room and the time that a busy scheduler needs to bind the pods:
to give up a growth too early costs more than to give it up a little late.
"""


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


def _replaceable(spec: TrainingRunSpec) -> bool:
    """Whether another node can replace a node.

    The nodes of a TPU slice of several hosts belong together, so none can be replaced.
    """
    return spec.accelerator.row.family != "tpu" or spec.accelerator.resolve().hosts_per_slice == 1
