"""A run in a queue: since when it waits, and whether the queue ended its processes. Pure.

The queue takes its quota back by suspending the JobSet: its pods get the signal to end, save and exit. The JobSet is
deleted at the first reconcile, and the next attempt enters the queue when the pods have ended. Otherwise Kueue might
admit the JobSet again while its processes still save, and the new processes would have the same epoch. The reason is
written into `status.queue.eviction` at the same reconcile, because these exits look like those of deleted pods."""

from dataclasses import replace

from halcyon_api.ends import EndCause
from halcyon_api.status.run_status import QueueEviction, QueueStatus, TrainingRunStatus
from halcyon_operator.decide.tell.queue import evicted_sentence
from halcyon_operator.model.decision import Boost
from halcyon_operator.model.endings import GroupEnd, conclude
from halcyon_operator.model.history import entry_of, group_of, had_processes, last_entry, present_group
from halcyon_operator.model.untrusted import moment, seconds_between, stamp, text
from halcyon_operator.model.views import JobSetView, Observed, ProcessGroup
from halcyon_operator.model.workload import BOOST_SECONDS, WorkloadView

MAX_BOOST = 6
"""Largest number that is added to a run's priority."""


def with_queue(observed: Observed, status: TrainingRunStatus, jobset: JobSetView | None) -> TrainingRunStatus:
    """The status with the state of the queue. Must be called before the restarts since the last reconcile are counted.

    Args:
        observed: The observation.
        status: The run's status after the last reconcile.
        jobset: The JobSet of the present attempt.
    """
    if jobset is None or not jobset.queue:
        return status if status.queue is None else status.but(queue=None)
    known = status.queue if status.queue and status.queue.name == jobset.queue else None
    group = group_of(status, jobset)
    found = _eviction(observed, status, jobset)
    eviction = found or (known and known.eviction)
    if eviction is not None and not jobset.suspended and _is_of(eviction, group):
        eviction = None  # the process group continues, so the eviction does not explain its later end
    waiting_since = None
    if jobset.suspended:
        fresh = jobset.restarts == 0 and not had_processes(observed, status, group)
        began = found.time if found is not None else stamp((jobset.created_at if fresh else None) or observed.now)
        waiting_since = (known and known.waiting_since) or began
    queue = QueueStatus(name=jobset.queue, waiting_since=waiting_since, eviction=eviction)
    return status.but(queue=queue)


def was_evicted(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> bool:
    """Whether a queue has evicted the present process group, so that the JobSet must never be admitted again.

    False for a deactivated Workload, because the Workload of the next attempt would be active. False for processes that
    had failed before: while their pods exist, JobSet still handles the failure.
    """
    group, seen = group_of(status, jobset), observed.workload
    if not had_processes(observed, status, group) or (isinstance(seen, WorkloadView) and not seen.active):
        return False
    end = conclude(observed.endings, group)
    return end is None or end.cause.end.evicted or not observed.pods_of(group)


def with_queue_cause(status: TrainingRunStatus, group: ProcessGroup, end: GroupEnd | None) -> GroupEnd | None:
    """The end of a process group, with cause `queueEvicted` if the queue had taken its quota back; None if no end is
    known.
    """
    queue = status.queue
    if queue is None or queue.eviction is None or not _is_of(queue.eviction, group):
        return end
    message = evicted_sentence(queue)
    if end is None:
        return GroupEnd(EndCause.QUEUE_EVICTED, message, moment(queue.eviction.time))
    return (
        replace(end, cause=EndCause.QUEUE_EVICTED, message=f"{message}; {end.message}")
        if end.cause.end.evicted
        else end
    )


def boost_due(observed: Observed, status: TrainingRunStatus, jobset: JobSetView | None) -> Boost | None:
    """The change of a Workload's priority: the run that would train longest again is preempted last. None: no change.

    Changes at most every ten minutes, and after a checkpoint.
    """
    seen = observed.workload
    if jobset is None or jobset.suspended or status.phase != "Running" or not isinstance(seen, WorkloadView):
        return None
    entry, saved = last_entry(status, status.attempt), status.checkpoint
    since = max(entry.started_at if entry else "", saved.time if saved else "")
    value = str(min(MAX_BOOST, int(seconds_between(since, observed.now) // BOOST_SECONDS)))
    return Boost(jobset.uid, seen.name, value) if value != seen.boost else None


def _is_of(eviction: QueueEviction, group: ProcessGroup) -> bool:
    return (eviction.attempt, eviction.restart) == group


def _eviction(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> QueueEviction | None:
    """The eviction of the process group of the last reconcile, from the Workload of a suspended JobSet."""
    group = present_group(status)
    entry, seen = entry_of(status, group), observed.workload
    if not jobset.suspended or not isinstance(seen, WorkloadView) or seen.evicted is None:
        return None
    evicted, known = seen.evicted, status.queue and status.queue.eviction
    recorded = known and known.time == stamp(
        evicted.at or observed.now
    )  # the Workload keeps the condition while the next group waits
    if entry is None or entry.ended_at is not None or recorded:
        return None
    return QueueEviction(
        attempt=group.attempt,
        restart=group.restart,
        reason=evicted.reason or "Evicted",
        message=text(evicted.message, 1024),
        time=stamp(evicted.at or observed.now),
    )
