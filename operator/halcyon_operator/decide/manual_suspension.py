"""A JobSet that a user suspends, such as an administrator who needs the hardware or drains a cluster. Pure.

The operator only shows it, and records the end of the process group at once. So even after its own restart it knows
that this JobSet must not continue when it is resumed: the new processes would have the epoch of processes that may
still be ending. The operator then creates a new attempt."""

from __future__ import annotations

from datetime import datetime

from halcyon_api.ends import EndCause
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.queueing import had_processes
from halcyon_operator.model.history import entry_of, with_end
from halcyon_operator.model.keys import ProcessGroup
from halcyon_operator.model.views import JobSetView, Observed


def with_manual_suspension(
    observed: Observed, status: TrainingRunStatus, jobset: JobSetView, now: datetime
) -> TrainingRunStatus:
    """The status with the end of a process group whose JobSet a user has suspended.

    Args:
        observed: The observation.
        status: The run's status, with all restarts counted.
        jobset: The JobSet of the present attempt.
        now: The time.
    """
    group = ProcessGroup(status.attempt, jobset.restarts)
    by_hand = jobset.suspended and not jobset.queue and jobset.outcome == "running" and not jobset.deleting
    if not by_hand or not had_processes(observed, status, group):
        return status
    return with_end(status, group, EndCause.PREEMPTED, f"JobSet {jobset.name} was suspended by a user", now, None)


def resumed_by_hand(status: TrainingRunStatus, jobset: JobSetView) -> str | None:
    """How the present process group ended, if a user resumed its JobSet after that; else None."""
    entry = entry_of(status, ProcessGroup(status.attempt, jobset.restarts))
    if jobset.outcome != "running" or jobset.suspended or entry is None or not entry.cause:
        return None
    return f"{entry.message or entry.cause}, and resumed"
