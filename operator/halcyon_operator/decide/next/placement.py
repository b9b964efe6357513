"""The slices of the next attempt, and the probe that searches for room for more slices. Pure.

Growing costs two starts, and another run may take the room first. The first growth is tried as soon as there is room. A
growth is lost if its pods find no node, or if the room is lost before the growth has paid for itself. After a lost
growth there is a pause, each time twice as long, and long enough that growing costs at most a twentieth of the time.

A probe is a JobSet whose pods request the same resources as the run's and do nothing. If its pods run, there is room.
They hold the room until the run has saved and stopped, and have pulled the image by then. Autoscalers treat them like
other pods. There is at most one probe, and only while the run trains: if pods of the run itself wait for nodes, it is
deleted.
"""

from datetime import datetime

from halcyon_api import names
from halcyon_api.elastic import usable_slices, wanted_slices
from halcyon_api.status.run_status import PlacementStatus, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.next.bad_nodes import current_avoided
from halcyon_operator.decide.next.recovery import Capacity
from halcyon_operator.decide.record.placement import (
    LONGEST_PAUSE_SECONDS,
    better_row,
    placement_of,
    search_pause,
    trains,
    whole_slices,
)
from halcyon_operator.model.decision import Deletion, ProbePlan
from halcyon_operator.model.history import entry_of, present_group
from halcyon_operator.model.untrusted import moment, seconds_between, stamp
from halcyon_operator.model.views import Observed, PodView
from halcyon_operator.model.workload import WorkloadView

GROWN_PATIENCE_SECONDS = 60.0
"""Longest wait for nodes after a growth. There was room before, so after this time another run has taken it.

It is longer than the time for which the probe holds the room and the time that a busy scheduler needs to bind the pods:
to give up a growth too early costs more than to give it up a little late.
"""
HANDOVER_SECONDS = 10.0
"""Time for which a probe holds its room for the larger attempt, whose pods preempt it by their priority.

Then the probe is deleted.
"""


def capacity_of(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> Capacity:
    """Whether there is room for the run."""
    placement = placement_of(status, spec)
    if late(observed, status, spec):
        return "late"
    if placement.waiting_since is None:
        return "more" if placement.room_since is not None else "enough"
    waited = seconds_between(placement.waiting_since, observed.now)
    elastic = spec.recovery.elastic
    if (
        elastic is not None
        and waited >= patience(placement, elastic.shrink_after_seconds)
        and smaller(observed, status, spec) is not None
    ):
        return "fewer"
    settings = spec.recovery.bad_nodes
    return (
        "avoided"
        if current_avoided(placement.avoided, settings, observed.now) and waited >= settings.give_up_seconds
        else "short"
    )


def waiting_since(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> str | None:
    """Since when the run waits for quota, or its pods for nodes. A user may keep a run out of its queue."""
    if status.queue is None or not status.waits_in_queue:
        return placement_of(status, spec).waiting_since
    held = isinstance(observed.workload, WorkloadView) and not observed.workload.active
    return None if held else status.queue.waiting_since


def late(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> bool:
    """Whether a run with several rows of hardware has waited in this one for too long."""
    since, placement = waiting_since(observed, status, spec), placement_of(status, spec)
    if spec.place is None or since is None:
        return False
    return seconds_between(since, observed.now) >= patience(placement, spec.place.wait_seconds)


def next_row(observed: Observed, status: TrainingRunStatus, placement: PlacementStatus) -> int:
    """The row after a wait that was too long: the next one; the first one if the attempt had trained in its own."""
    trained = any(entry.attempt == status.attempt and entry.first_step_at for entry in status.history)
    return 0 if trained and placement.row else (placement.row + 1) % len(observed.run.rows)


def in_first_row(observed: Observed, placement: PlacementStatus | None) -> PlacementStatus | None:
    """The placement of a run that has lost its hardware: it begins with the first row again."""
    if placement is None or not placement.row or not observed.run.rows:
        return placement
    return shrunk(placement, observed.run.rows[0].accelerator.slices, 0)


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
    rows = 1 + len(spec.place.otherwise) if spec.place is not None else 1
    return PlacementStatus(
        row=before.row if before.row < rows else 0,
        speeds=before.speeds,
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


def patience(placement: PlacementStatus, usual: float) -> float:
    """Seconds for which pods may wait for a node before the run continues with fewer slices, or in another row."""
    return usual if placement.grown_from is None else GROWN_PATIENCE_SECONDS


def grown(placement: PlacementStatus, slices: int, now: datetime, row: int = 0) -> PlacementStatus:
    """The placement of a run that continues with more slices, or in a better row."""
    before = placement.grown_from if placement.grown_from is not None else placement.slices
    return placement.but(slices=slices, row=row, grown_from=before, grown_at=stamp(now), grow_not_before=None)


def shrunk(placement: PlacementStatus, slices: int, row: int = 0) -> PlacementStatus:
    """The placement of a run that continues with fewer slices, or in the row that is next. The time of the growth stays
    until its cost is known.
    """
    lost = placement.lost_growths + 1 if placement.grown_from is not None else 0
    return placement.but(
        slices=slices,
        row=row,
        waiting_since=None,
        grown_from=None,
        lost_growths=lost,
        grown_at=placement.grown_at if lost else None,
    )


def may_probe(placement: PlacementStatus, now: datetime) -> bool:
    """Whether a probe may search for room for more slices."""
    until = moment(placement.grow_not_before)
    # If the time is later than the longest pause allows, the clock was set back after it was written.
    return until is None or now >= until or (until - now).total_seconds() > LONGEST_PAUSE_SECONDS


def probe_holds_room(placement: PlacementStatus, now: datetime, *, made: bool, trains: bool) -> bool:
    """Whether a probe still holds its room for the larger attempt.

    Args:
        placement: The run's placement after this reconcile.
        now: The time.
        made: Whether the larger attempt's JobSet exists.
        trains: Whether the larger attempt trains.
    """
    if placement.grown_from is None or trains:
        return False
    return not made or (
        placement.waiting_since is not None and seconds_between(placement.waiting_since, now) < HANDOVER_SECONDS
    )


def missing_slices(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> int:
    """Number of slices to probe for now: additional ones, or those of a better row."""
    pause, placement = search_pause(spec), placement_of(status, spec)
    if pause is None or placement.waiting_since is not None or not trains(status):
        return 0
    entry = entry_of(status, present_group(status))
    since = entry and entry.first_step_at
    if observed.probe is None and (
        seconds_between(since, observed.now) < pause or not may_probe(placement, observed.now)
    ):
        return 0
    if spec.place is not None:
        row = better_row(observed, status)
        return observed.run.rows[row].accelerator.slices if row is not None and row == placement.room_row else 0
    return max(0, max(usable_slices(spec), default=0) - placement.slices)


def plan_probe(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec | None, *, holding: bool
) -> tuple[tuple[ProbePlan, ...], tuple[Deletion, ...]]:
    """The creation or deletion of the probe.

    Args:
        observed: The observation.
        status: The run's status after this reconcile.
        spec: The run's spec; None if its attempt does not run.
        holding: Whether the old attempt is being stopped because of the probe's room, or the new one has not taken that
            room yet.
    """
    probe = observed.probe
    missing = missing_slices(observed, status, spec) if spec is not None else 0
    if probe is None:
        return ((_plan(observed, status, spec, missing),) if spec is not None and missing else ()), ()
    own = probe.jobset.owner_uid == observed.run.uid != "" and probe.jobset.name == names.probe_name(observed.run.name)
    if probe.jobset.deleting or not own:
        return (), ()
    if holding or (missing and probe.jobset.replicas == missing and probe.jobset.outcome == "running"):
        return (), ()
    return (), (Deletion("JobSet", probe.jobset.name, probe.jobset.uid),)


def _plan(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, slices: int) -> ProbePlan:
    placement = placement_of(status, spec)
    avoided = current_avoided(placement.avoided, spec.recovery.bad_nodes, observed.now)
    spec = spec if placement.room_row is None else observed.run.rows[placement.room_row]
    return ProbePlan(observed.run, spec, observed.settings, slices, tuple(node.node for node in avoided))
