"""Goodput: how much of the time since a run first started went into steps that lasted.

A world of processes trains from its first step to its end. Of the steps it did, those that the next world did again were lost, and their
share of the time with them. Everything else of the wall time (waiting for hardware, starting, compiling, dying) is overhead. Suspension is
nobody's loss: it is taken out of the wall time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise, zip_longest

from halcyon_api.status import CarriedGoodput, Goodput, HistoryEntry, TrainingRunStatus
from halcyon_operator.plain import seconds_between


@dataclass(frozen=True)
class _Share:
    """What one world contributed."""

    productive_seconds: float = 0.0
    suspended_seconds: float = 0.0
    lost_steps: int = 0


def measure(status: TrainingRunStatus, now: datetime) -> Goodput | None:
    """The goodput of a run from its history, None before its first attempt."""
    if status.started_at is None:
        return None
    end = status.finished_at or now
    carried = status.goodput.carried if status.goodput is not None else CarriedGoodput()
    step = status.progress.step if status.progress is not None else None
    shares = [_share(entry, after, end, step) for entry, after in zip_longest(status.history, status.history[1:]) if entry is not None]
    suspended = carried.suspended_seconds + sum(share.suspended_seconds for share in shares)
    wall = max(0.0, seconds_between(status.started_at, end) - suspended)
    productive = min(wall, carried.productive_seconds + sum(share.productive_seconds for share in shares))
    return Goodput(
        ratio=round(productive / wall, 4) if wall > 0 else 0.0,
        wall_seconds=round(wall, 1),
        productive_seconds=round(productive, 1),
        lost_steps=carried.lost_steps + sum(share.lost_steps for share in shares),
        carried=carried,
    )


def carry(goodput: Goodput | None, dropped: Sequence[HistoryEntry], kept: Sequence[HistoryEntry]) -> Goodput | None:
    """The goodput with the contributions of entries that leave the history, in front of those that stay (at least one)."""
    if not dropped:
        return goodput
    goodput = goodput or Goodput(ratio=0.0, wall_seconds=0.0, productive_seconds=0.0)
    carried = goodput.carried
    for entry, after in pairwise([*dropped, kept[0]]):
        share = _share(entry, after, entry.ended_at or entry.started_at, None)
        carried = CarriedGoodput(
            productive_seconds=carried.productive_seconds + share.productive_seconds,
            suspended_seconds=carried.suspended_seconds + share.suspended_seconds,
            lost_steps=carried.lost_steps + share.lost_steps,
        )
    return goodput.model_copy(update={"carried": carried})


def _share(entry: HistoryEntry, after: HistoryEntry | None, end: str | datetime, step_now: int | None) -> _Share:
    """What a world contributed, given the world after it, or (for the newest world) the end of the time looked at and the step then."""
    suspended = 0.0
    if entry.cause == "suspended" and entry.ended_at is not None:
        suspended = seconds_between(entry.ended_at, after.started_at if after is not None else end)
    to_step = entry.to_step if entry.ended_at is not None else step_now
    if entry.from_step is None or to_step is None or entry.first_step_at is None or to_step <= entry.from_step:
        return _Share(suspended_seconds=suspended)
    lasted = min(to_step, after.from_step) if after is not None and after.from_step is not None else to_step
    kept = max(0, lasted - entry.from_step) / (to_step - entry.from_step)
    return _Share(
        productive_seconds=seconds_between(entry.first_step_at, entry.ended_at or end) * kept,
        suspended_seconds=suspended,
        lost_steps=max(0, to_step - lasted),
    )
