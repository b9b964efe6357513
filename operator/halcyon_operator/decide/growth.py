"""The cost and success of growing to more slices, and when a run may try again. Pure.

Growing costs two starts, and another run may take the room first. The first growth is tried as soon as there is room. A
growth is lost if its pods find no node, or if the room is lost before the growth has paid for itself. After a lost
growth there is a pause, each time twice as long, and long enough that growing costs at most a twentieth of the time."""

from __future__ import annotations

from datetime import datetime, timedelta

from halcyon_api.spec.recovery import ElasticSpec
from halcyon_api.status.run_status import PlacementStatus
from halcyon_operator.model.untrusted import moment, seconds_between, stamp

SHARE = 20
"""A growth has paid for itself, and a lost one may be retried, when the run has trained for this multiple of the cost.
"""
HANDOVER_SECONDS = 10.0
"""Time for which a probe holds its room for the larger attempt, whose pods preempt it by their priority.

Then the probe is deleted.
"""
GROWN_PATIENCE_SECONDS = 60.0
"""Longest wait for nodes after a growth. There was room before, so after this time another run has taken it.

It is longer than the time for which the probe holds the room and the time that a busy scheduler needs to bind the pods:
to give up a growth too early costs more than to give it up a little late.
"""
_LONGEST_PAUSE_SECONDS = 86_400.0


def grown(placement: PlacementStatus, slices: int, now: datetime) -> PlacementStatus:
    """The placement of a run that continues with more slices."""
    before = placement.grown_from if placement.grown_from is not None else placement.slices
    return placement.model_copy(
        update={"slices": slices, "grown_from": before, "grown_at": stamp(now), "grow_not_before": None}
    )


def shrunk(placement: PlacementStatus, slices: int) -> PlacementStatus:
    """The placement of a run that continues with fewer slices. The time of the growth stays until its cost is known."""
    lost = placement.lost_growths + 1 if placement.grown_from is not None else 0
    update = {
        "slices": slices,
        "grown_from": None,
        "lost_growths": lost,
        "grown_at": placement.grown_at if lost else None,
    }
    return placement.model_copy(update=update)


def with_growth_cost(
    placement: PlacementStatus, elastic: ElasticSpec, first_step_at: str | None, now: datetime
) -> PlacementStatus:
    """The placement, updated with the cost of the last growth.

    Args:
        placement: The placement before.
        elastic: The run's settings.
        first_step_at: Time of the first step of the present process group; None: not yet.
        now: The time.
    """
    if placement.grown_at is None or first_step_at is None:
        return placement
    cost = seconds_between(placement.grown_at, first_step_at)
    if placement.grown_from is None:
        pause = max(elastic.grow_after_seconds * 2.0 ** min(placement.lost_growths, 16), SHARE * cost)
        start = moment(first_step_at) or now
        until = stamp(start + timedelta(seconds=min(pause, _LONGEST_PAUSE_SECONDS)))
        return placement.model_copy(update={"grown_at": None, "grow_not_before": until})
    if seconds_between(first_step_at, now) < SHARE * cost:
        return placement
    return placement.model_copy(update={"grown_at": None, "grown_from": None, "lost_growths": 0})


def may_probe(placement: PlacementStatus, now: datetime) -> bool:
    """Whether a probe may search for room for more slices."""
    until = moment(placement.grow_not_before)
    # If the time is later than the longest pause allows, the clock was set back after it was written.
    return until is None or now >= until or (until - now).total_seconds() > _LONGEST_PAUSE_SECONDS


def patience(placement: PlacementStatus, elastic: ElasticSpec) -> float:
    """Seconds for which pods may wait for a node before the run continues with fewer slices."""
    if placement.grown_from is None:
        return elastic.shrink_after_seconds
    return GROWN_PATIENCE_SECONDS


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
