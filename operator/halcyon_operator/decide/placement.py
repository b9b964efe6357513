"""The number of slices of a run, and the room for fewer or more. Pure.

Nodes are not read: the scheduler's results show whether there is room. The run's own pods show it for its present
slices, the pods of a probe for more slices (`room_probe.py`)."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from halcyon_api.elastic import usable_slices, wanted_slices
from halcyon_api.status.run_status import PlacementStatus, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.bad_nodes import current_avoided
from halcyon_operator.decide.growth import patience, with_growth_cost
from halcyon_operator.decide.recovery import Capacity
from halcyon_operator.decide.spec_hash import RETIRED
from halcyon_operator.model.history import entry_of, present_group
from halcyon_operator.model.keys import ProcessGroup
from halcyon_operator.model.untrusted import seconds_between, stamp
from halcyon_operator.model.views import JobSetView, Observed, PodView


def placement_of(status: TrainingRunStatus, spec: TrainingRunSpec) -> PlacementStatus:
    """The recorded placement; if there is none, that of the attempt's topology."""
    slices = status.topology.slices if status.topology is not None else spec.accelerator.slices
    return status.placement or PlacementStatus(slices=slices, wanted_slices=wanted_slices(spec))


def with_room(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, jobset: JobSetView, now: datetime
) -> TrainingRunStatus:
    """The status with the observed room for the present attempt, and for a larger one."""
    placement = placement_of(status, spec)
    if (
        (spec.recovery.elastic is None and not placement.avoided)
        or jobset.deleting
        or status.attempt_spec_hash == RETIRED
    ):
        return status
    update: dict[str, object] = {"wanted_slices": wanted_slices(spec), "waiting_since": None}
    # While a queue holds the JobSet, its pods need no node.
    if (
        jobset.outcome == "running"
        and not jobset.suspended
        and not _all_placed(observed, status, spec, placement.slices, jobset)
    ):
        update["waiting_since"] = placement.waiting_since or stamp(now)
    room = None if update["waiting_since"] else _room(observed, spec, placement, now)
    if room is None:
        update |= {"room_since": None, "room_slices": None, "room_step": None}
    elif placement.room_since is None:
        step = status.checkpoint.step if status.checkpoint is not None else 0
        update |= {"room_since": stamp(now), "room_slices": room, "room_step": step}
    else:
        update["room_slices"] = room
    placement = placement.model_copy(update=update)
    entry = entry_of(status, present_group(status))
    if spec.recovery.elastic is not None:
        first_step_at = entry.first_step_at if entry is not None and entry.ended_at is None else None
        placement = with_growth_cost(placement, spec.recovery.elastic, first_step_at, now)
    return status.model_copy(update={"placement": placement})


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
    placed = _whole_slices([pod for pod in _own(observed, status) if pod.node and not pod.deleting], spec)
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


def trains(status: TrainingRunStatus) -> bool:
    """Whether the present process group has done its first step."""
    entry = entry_of(status, present_group(status))
    return entry is not None and entry.first_step_at is not None and entry.ended_at is None


def _all_placed(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, slices: int, jobset: JobSetView
) -> bool:
    """Whether every process of the present group has a node."""
    group = ProcessGroup(status.attempt, jobset.restarts)
    placed = {pod.process for pod in observed.pods if pod.group == group and pod.node}
    return len(placed) >= slices * spec.accelerator.resolve().hosts_per_slice


def _own(observed: Observed, status: TrainingRunStatus) -> list[PodView]:
    return [pod for pod in observed.pods if pod.group == present_group(status)]


def _room(observed: Observed, spec: TrainingRunSpec, placement: PlacementStatus, now: datetime) -> int | None:
    """The number of slices including those that a probe holds; None if it is not larger than the present number.

    A number below the wanted one counts only after the probe has searched for `growAfterSeconds`.
    """
    elastic, probe = spec.recovery.elastic, observed.probe
    if elastic is None or probe is None or probe.jobset.deleting or probe.jobset.outcome != "running":
        return None
    held = _whole_slices([pod for pod in probe.pods if pod.phase == "Running" and not pod.deleting], spec)
    larger = [number for number in usable_slices(spec) if placement.slices < number <= placement.slices + held]
    if not larger:
        return None
    looked = (now - probe.jobset.created_at).total_seconds() if probe.jobset.created_at is not None else 0.0
    everything = larger[-1] == usable_slices(spec)[-1]
    return (
        larger[-1] if everything or placement.room_since is not None or looked >= elastic.grow_after_seconds else None
    )


def _whole_slices(pods: list[PodView], spec: TrainingRunSpec) -> int:
    """The number of complete slices of some pods.

    If a slice is a node pool, its hosts belong together; else any hosts form a slice.
    """
    hosts = spec.accelerator.resolve().hosts_per_slice
    processes = {pod.process for pod in pods}
    if not spec.accelerator.row.pool_is_slice:
        return len(processes) // hosts
    return sum(count >= hosts for count in Counter(process[0] for process in processes).values())
