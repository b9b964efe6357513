"""A JobSet that somebody else suspends: an administrator who needs the hardware, or drains a cluster. Pure.

The operator only tells of it. The end of the world that was sent away is written down as soon as it is seen, so that the operator knows,
also after it was itself started again, that a JobSet which is resumed must not go on: its new processes would have the numbers of those
that may still be leaving. It makes a new attempt then.
"""

from __future__ import annotations

from datetime import datetime

from halcyon_api.status import TrainingRunStatus
from halcyon_operator.decide.queueing import had_processes
from halcyon_operator.model.history import entry_of, with_end
from halcyon_operator.model.keys import ProcessGroup
from halcyon_operator.model.views import JobSetView, Observed


def with_manual_suspension(observed: Observed, status: TrainingRunStatus, jobset: JobSetView, now: datetime) -> TrainingRunStatus:
    """The status with the end of a world whose JobSet somebody else has suspended.

    Args:
        observed: All that was looked at.
        status: The run's status, with all restarts put to account.
        jobset: The JobSet of the present attempt.
        now: The time.
    """
    group = ProcessGroup(status.attempt, jobset.restarts)
    by_hand = jobset.suspended and not jobset.queue and jobset.outcome == "running" and not jobset.deleting
    if not by_hand or not had_processes(observed, status, group):
        return status
    return with_end(status, group, "preempted", f"JobSet {jobset.name} was suspended by somebody else", now, None)


def resumed_by_hand(status: TrainingRunStatus, jobset: JobSetView) -> str | None:
    """How the present world ended, where its JobSet is at work again without it; None for any other."""
    entry = entry_of(status, ProcessGroup(status.attempt, jobset.restarts))
    if jobset.outcome != "running" or jobset.suspended or entry is None or not entry.cause:
        return None
    return f"{entry.message or entry.cause}, and resumed"
