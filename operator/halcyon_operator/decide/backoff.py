"""How long the next attempt of a run is held back after ends that cost it nothing and get it nowhere. Pure.

A store that refuses may be itself again in a minute or in a day, and a preemption is nobody's fault; so neither ends a run. But a run that
is started again and again without a checkpoint takes hardware for nothing. So the pause before its next attempt grows, up to half an
hour; a checkpoint, an edit or a restart that is asked for ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from halcyon_api.status import HistoryEntry, TrainingRunStatus
from halcyon_operator.decide.checkpoint_status import resume_step
from halcyon_operator.decide.recovery import FREE
from halcyon_operator.model.causes import end_of
from halcyon_operator.model.untrusted import moment

FREE_ENDS_IN_A_ROW = 10
"""So many ends that cost nothing may follow one another without a checkpoint before the next attempt is held back."""
FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 1800.0
LARGEST_SKEW = timedelta(minutes=1)
"""So far the clocks of a node and of the operator may be apart."""
_OWN = "heldBack"
"""The end that the operator itself makes for a pause; it tells nothing of its own."""


@dataclass(frozen=True)
class Hold:
    """Why the next attempt is not made yet, and when it will be."""

    reason: str
    until: datetime
    ends: int
    """Ends of this kind in a row without a checkpoint."""
    ended: datetime
    """When the newest of them was."""

    def is_over(self, now: datetime) -> bool:
        """Whether the next attempt may be made. So it may where the end lies in the future, for the operator's clock was set back then."""
        return now >= self.until or self.ended - now > LARGEST_SKEW


def backoff_of(status: TrainingRunStatus) -> Hold | None:
    """What the newest end of a run asks for; None where the next attempt follows at once."""
    newest = next((entry for entry in reversed(status.history) if entry.cause and entry.cause != _OWN), None)
    ended = moment(newest.ended_at) if newest is not None else None
    if newest is None or ended is None:
        return None
    if reason := end_of(newest.cause or "").pause:
        ends = _ends_in_a_row(status, (newest.cause or "",))
        return Hold(reason, ended + timedelta(seconds=_pause(ends)), ends, ended) if ends else None
    if newest.cause in FREE and (ends := free_ends_in_a_row(status)) >= FREE_ENDS_IN_A_ROW:
        return Hold("RestartsWithoutCheckpoint", ended + timedelta(seconds=_pause(ends - FREE_ENDS_IN_A_ROW + 1)), ends, ended)
    return None


def free_ends_in_a_row(status: TrainingRunStatus) -> int:
    """How many of the newest ends cost nothing and brought no checkpoint."""
    return _ends_in_a_row(status, FREE)


def _ends_in_a_row(status: TrainingRunStatus, causes: tuple[str, ...]) -> int:
    count = 0
    for entry in reversed(status.history):
        if not entry.cause or entry.cause == _OWN:
            continue
        if entry.cause not in causes or _was_saved(entry, status):
            break
        count += 1
    return count


def _was_saved(entry: HistoryEntry, status: TrainingRunStatus) -> bool:
    """Whether there is a checkpoint that is newer than the start of a world."""
    return entry.from_step is not None and resume_step(status) > entry.from_step


def _pause(ends: int) -> float:
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(ends - 1, 16))
