"""The pause before the next attempt, after ends that do not count as failures and had no checkpoint. Pure.

A store that denies access may work again in a minute or in a day, and a preemption is not the run's fault, so neither
stops a run. But a run that restarts again and again without a checkpoint wastes hardware. So the pause before its next
attempt grows, up to half an hour; a checkpoint, an edit or a requested restart ends it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from halcyon_api.ends import HELD, RESTARTS_WITHOUT_CHECKPOINT, EndCause, EndReason, cause_named
from halcyon_api.status.run_status import HistoryEntry, TrainingRunStatus
from halcyon_operator.decide.next.recovery import FREE
from halcyon_operator.model.reasons import StartReason
from halcyon_operator.model.untrusted import moment

FREE_ENDS_IN_A_ROW = 10
"""Number of free ends in a row without a checkpoint after which the next attempt waits."""
FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 1800.0
LARGEST_SKEW = timedelta(minutes=1)
"""Largest difference between the clocks of a node and the operator."""
_OWN = EndCause.HELD_BACK
"""The end that the operator itself makes for a pause; it does not count."""


@dataclass(frozen=True)
class Backoff:
    """The reason of the pause, and the time of the next attempt."""

    reason: StartReason | EndReason
    until: datetime
    ends: int
    """Ends of this kind in a row without a checkpoint."""
    ended: datetime
    """Time of the newest of these ends."""

    def is_over(self, now: datetime) -> bool:
        """Whether the next attempt may be created.

        An end in the future means that the clock was set back, so there is no wait.
        """
        return now >= self.until or self.ended - now > LARGEST_SKEW


def backoff_of(status: TrainingRunStatus) -> Backoff | None:
    """The pause after the newest end of a run; None if the next attempt follows at once."""
    newest = next((entry for entry in reversed(status.history) if entry.cause and entry.cause != _OWN), None)
    ended = newest and moment(newest.ended_at)
    if newest is None or ended is None:
        return None
    cause = cause_named(newest.cause)
    if not (number := pauses(status, cause)):
        return None
    ends = _ends_in_a_row(status, (cause,) if cause in HELD else FREE)
    reason = EndReason(cause.end.reason) if cause in HELD else RESTARTS_WITHOUT_CHECKPOINT
    return Backoff(reason, ended + timedelta(seconds=_pause(number)), ends, ended)


def pauses(status: TrainingRunStatus, cause: EndCause) -> int:
    """Number of pauses that the newest ends need, the next one included, if the newest one has this cause; 0: none."""
    if cause.end.budget == "store":
        return _ends_in_a_row(status, (cause,))
    if cause == EndCause.REJECTED:
        return max(0, _ends_in_a_row(status, (cause,)) - 1)
    return max(0, _ends_in_a_row(status, FREE) - FREE_ENDS_IN_A_ROW + 1) if cause in FREE else 0


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
    """Whether a checkpoint was committed after the start of a process group."""
    return entry.from_step is not None and status.resume_step > entry.from_step


def _pause(ends: int) -> float:
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(ends - 1, 16))
