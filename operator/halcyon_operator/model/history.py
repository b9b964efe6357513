"""Reads the history of a run, which has one entry for each process group."""

from halcyon_api.ends import EndCause, cause_named
from halcyon_api.status.run_status import HistoryEntry, TrainingRunStatus
from halcyon_operator.model.views import JobSetView, Observed, ProcessGroup, ProcessIndex


def present_group(status: TrainingRunStatus) -> ProcessGroup:
    """The newest recorded process group."""
    return ProcessGroup(status.attempt, status.job_set_restarts)


def process_of(status: TrainingRunStatus, number: int) -> ProcessIndex:
    """The slice and host of the process with this number in the present attempt."""
    topology = status.topology
    return ProcessIndex(*divmod(number, max(1, topology.hosts // topology.slices) if topology is not None else 1))


def group_of(status: TrainingRunStatus, jobset: JobSetView) -> ProcessGroup:
    """The newest process group of the present attempt's JobSet, whose labels may have been changed by hand."""
    return ProcessGroup(status.attempt, jobset.restarts)


def entry_of(status: TrainingRunStatus, group: ProcessGroup) -> HistoryEntry | None:
    """The entry of a process group, if it has one."""
    return next((entry for entry in reversed(status.history) if (entry.attempt, entry.restart) == group), None)


def last_entry(status: TrainingRunStatus, attempt: int) -> HistoryEntry | None:
    """The entry of an attempt's newest process group."""
    return next((entry for entry in reversed(status.history) if entry.attempt == attempt), None)


def last_cause(status: TrainingRunStatus) -> EndCause:
    """Cause of the end of the present attempt's newest process group."""
    entry = last_entry(status, status.attempt)
    return cause_named(entry and entry.cause)


def last_end(status: TrainingRunStatus) -> HistoryEntry | None:
    """The entry of the newest process group that has ended."""
    return next((entry for entry in reversed(status.history) if entry.cause), None)


def ended_cause(status: TrainingRunStatus) -> EndCause:
    """Cause of the newest end in the history."""
    ended = last_end(status)
    return cause_named(ended.cause) if ended is not None else EndCause.SPEC_CHANGED


def last_message(status: TrainingRunStatus) -> str:
    """Message of the newest end in the history."""
    ended = last_end(status)
    return (ended and ended.message) or "no pod was seen to end"


def had_processes(observed: Observed, status: TrainingRunStatus, group: ProcessGroup) -> bool:
    """Whether a process group is known to have had processes. A pod that never started had no process."""
    entry = entry_of(status, group)
    trained = entry and entry.first_step_at is not None
    return (
        trained
        or any(one.ran for one in observed.endings_of(group))
        or any(pod.running for pod in observed.pods_of(group))
    )
