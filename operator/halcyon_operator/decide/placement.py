"""On how many slices the run is and could be: what is seen of the room for it, and since when. Pure.

Nodes are not looked at: what the scheduler made of pods says whether there is room. For the run's own slices its own pods say it, for more
slices those of a probe (`objects/probe.py`).
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from halcyon_api.elastic import usable_slices, wanted_slices
from halcyon_api.placement import PlacementStatus
from halcyon_api.status import TrainingRunStatus
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
    """The placement on record, or that of an attempt from before there were records."""
    slices = status.topology.slices if status.topology is not None else spec.accelerator.slices
    return status.placement or PlacementStatus(slices=slices, wanted_slices=wanted_slices(spec))


def with_room(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, jobset: JobSetView, now: datetime) -> TrainingRunStatus:
    """The status with what is seen of the room for the present attempt, and for a larger one."""
    placement = placement_of(status, spec)
    if (spec.recovery.elastic is None and not placement.avoided) or jobset.deleting or status.attempt_spec_hash == RETIRED:
        return status
    update: dict[str, object] = {"wanted_slices": wanted_slices(spec), "waiting_since": None}
    # Pods that a queue holds back ask for no node yet.
    if jobset.outcome == "running" and not jobset.suspended and not _all_placed(observed, status, spec, placement.slices, jobset):
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
    return "avoided" if current_avoided(placement.avoided, settings, now) and waited >= settings.give_up_seconds else "short"


def smaller(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> int | None:
    """The largest usable number of slices that have nodes, below what the attempt has."""
    placed = _whole_slices([pod for pod in _own(observed, status) if pod.node and not pod.deleting], spec)
    slices = placement_of(status, spec).slices
    return max((number for number in usable_slices(spec) if number <= placed and number < slices), default=None)


def first_slices(status: TrainingRunStatus, spec: TrainingRunSpec, *, anew: bool) -> int:
    """On how many slices the next attempt is made.

    Args:
        status: The run's status.
        spec: The run's spec.
        anew: What was known of the room is out of date.
    """
    placement = placement_of(status, spec)
    known = placement.slices in usable_slices(spec) and placement.wanted_slices == wanted_slices(spec)
    return placement.slices if known and not anew else spec.accelerator.slices


def next_placement(status: TrainingRunStatus, spec: TrainingRunSpec, now: datetime, *, anew: bool) -> PlacementStatus:
    """Where the next attempt is placed. Somebody who looked into a run and lets it go on wants no blame kept."""
    before, slices = placement_of(status, spec), first_slices(status, spec, anew=anew)
    return PlacementStatus(
        slices=slices,
        wanted_slices=wanted_slices(spec),
        reason=before.reason if slices < spec.accelerator.slices else None,
        avoided=[] if anew else current_avoided(before.avoided, spec.recovery.bad_nodes, now),
        blames=[] if anew else before.blames,
        grown_from=None if anew else before.grown_from,
        grown_at=None if anew else before.grown_at,
        lost_growths=0 if anew else before.lost_growths,
        grow_not_before=None if anew else before.grow_not_before,
    )


def trains(status: TrainingRunStatus) -> bool:
    """Whether the present world has done its first step."""
    entry = entry_of(status, present_group(status))
    return entry is not None and entry.first_step_at is not None and entry.ended_at is None


def _all_placed(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, slices: int, jobset: JobSetView) -> bool:
    """Whether every process of the present world has a node."""
    group = ProcessGroup(status.attempt, jobset.restarts)
    placed = {pod.process for pod in observed.pods if pod.group == group and pod.node}
    return len(placed) >= slices * spec.accelerator.resolve().hosts_per_slice


def _own(observed: Observed, status: TrainingRunStatus) -> list[PodView]:
    return [pod for pod in observed.pods if pod.group == present_group(status)]


def _room(observed: Observed, spec: TrainingRunSpec, placement: PlacementStatus, now: datetime) -> int | None:
    """How many slices the run could have with those that a probe holds; None when not more than it has.

    Less than the wanted number is taken only when the probe has looked for `growAfterSeconds`.
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
    return larger[-1] if everything or placement.room_since is not None or looked >= elastic.grow_after_seconds else None


def _whole_slices(pods: list[PodView], spec: TrainingRunSpec) -> int:
    """How many slices pods make up. Most hosts are all alike; those of a slice that is a node pool belong together."""
    hosts = spec.accelerator.resolve().hosts_per_slice
    processes = {pod.process for pod in pods}
    if not spec.accelerator.row.pool_is_slice:
        return len(processes) // hosts
    return sum(count >= hosts for count in Counter(process[0] for process in processes).values())
