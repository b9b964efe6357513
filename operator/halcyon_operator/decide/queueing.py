"""A run in a queue: since when it waits, for what, and whether the queue ended its processes. Pure.

The queue takes its quota back by suspending the JobSet: its pods get the signal to end, save and exit. The JobSet is
deleted at the first reconcile, and the next attempt enters the queue when the pods have ended. Otherwise Kueue might
admit the JobSet again while its processes still save, and the new processes would have the same epoch. The reason is
written into `status.queue.eviction` at the same reconcile, because these exits look like those of deleted pods."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from halcyon_api.ends import EndCause
from halcyon_api.status.run_status import QueueEviction, QueueStatus, TrainingRunStatus
from halcyon_operator.decide.conditions import Description
from halcyon_operator.model.decision import Event
from halcyon_operator.model.endings import GroupEnd, conclude
from halcyon_operator.model.history import entry_of, present_group
from halcyon_operator.model.keys import ProcessGroup
from halcyon_operator.model.reasons import QueueReason, StallReason, stall_reason
from halcyon_operator.model.untrusted import moment, seconds_between, stamp, text
from halcyon_operator.model.views import JobSetView, Observed, PodView
from halcyon_operator.model.workload import NoKueue, NoWorkload, WorkloadReading, WorkloadUnread, WorkloadView

TAKEN_UP_SECONDS = 60.0
"""Time for Kueue to create a Workload. After it the message lists what the user can check."""


def with_queue(
    observed: Observed, status: TrainingRunStatus, jobset: JobSetView | None, now: datetime
) -> TrainingRunStatus:
    """The status with the state of the queue. Must be called before the restarts since the last reconcile are counted.

    Args:
        observed: The observation.
        status: The run's status after the last reconcile.
        jobset: The JobSet of the present attempt.
        now: The time.
    """
    if jobset is None or not jobset.queue:
        return status if status.queue is None else status.model_copy(update={"queue": None})
    known = status.queue if status.queue is not None and status.queue.name == jobset.queue else None
    group = ProcessGroup(status.attempt, jobset.restarts)
    found = _eviction(observed, status, jobset, now)
    eviction = found or (known.eviction if known is not None else None)
    if eviction is not None and not jobset.suspended and _is_of(eviction, group):
        eviction = None  # the process group continues, so the eviction does not explain its later end
    waiting_since = None
    if jobset.suspended:
        fresh = jobset.restarts == 0 and not had_processes(observed, status, group)
        began = found.time if found is not None else stamp((jobset.created_at if fresh else None) or now)
        waiting_since = (known.waiting_since if known is not None else None) or began
    queue = QueueStatus(name=jobset.queue, waiting_since=waiting_since, eviction=eviction)
    return status.model_copy(update={"queue": queue})


def had_processes(observed: Observed, status: TrainingRunStatus, group: ProcessGroup) -> bool:
    """Whether a process group is known to have had processes. A pod that never started had no process."""
    entry = entry_of(status, group)
    trained = entry is not None and entry.first_step_at is not None
    return (
        trained
        or any(one.group == group and one.ran for one in observed.endings)
        or any(pod.group == group and pod.running for pod in observed.pods)
    )


def was_evicted(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> bool:
    """Whether a queue has evicted the present process group, so that the JobSet must never be admitted again.

    False for a deactivated Workload, because the Workload of the next attempt would be active. False for processes that
    had failed before: while their pods exist, JobSet still handles the failure.
    """
    group, seen = ProcessGroup(status.attempt, jobset.restarts), observed.workload
    if not had_processes(observed, status, group) or (isinstance(seen, WorkloadView) and not seen.active):
        return False
    end = conclude(observed.endings, group)
    return end is None or end.cause.end.evicted or not _pods_of(observed, group)


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


def evicted_sentence(queue: QueueStatus) -> str:
    """Why a queue took its quota back."""
    eviction = queue.eviction
    if eviction is None:
        return f"queue {queue.name} suspended the JobSet"
    return f"queue {queue.name} took its quota back, {eviction.reason}" + (
        f": {eviction.message.rstrip('.')}" if eviction.message else ""
    )


def describe_queued(observed: Observed, status: TrainingRunStatus, jobset: JobSetView, now: datetime) -> Description:
    """The description of an attempt whose JobSet a queue holds."""
    queue, group = status.queue or QueueStatus(name=jobset.queue), ProcessGroup(status.attempt, jobset.restarts)
    if had_processes(observed, status, group) and _pods_of(observed, group):
        return Description("Restarting", "QueueEvicted", f"{evicted_sentence(queue)}; its processes save and exit")
    reason, why = _why(observed.workload, jobset, seconds_between(queue.waiting_since, now), now)
    message = f"waiting in queue {queue.name} since {queue.waiting_since or stamp(now)}: {why}"
    stalled = stall_reason(reason)
    return Description("Queued", reason, message, stalled, message if stalled else "")


def queue_changed(before: TrainingRunStatus, after: TrainingRunStatus, now: datetime) -> tuple[Event, ...]:
    """The event when the run begins to wait in a queue, or is admitted."""
    waited = before.queue.waiting_since if before.queue is not None else None
    queue = after.queue
    if queue is None or (waited is None) == (queue.waiting_since is None):
        return ()
    if queue.waiting_since is not None:
        message = f"Attempt {after.attempt} waits in queue {queue.name}"
        return (Event("Normal", "Queued", message, f"queued/{after.attempt}/{queue.waiting_since}"),)
    message = f"Attempt {after.attempt} was admitted by queue {queue.name} after {seconds_between(waited, now):.0f} s"
    return (Event("Normal", "Admitted", message, f"admitted/{after.attempt}/{waited}"),)


def _pods_of(observed: Observed, group: ProcessGroup) -> tuple[PodView, ...]:
    return tuple(pod for pod in observed.pods if pod.group == group)


def _is_of(eviction: QueueEviction, group: ProcessGroup) -> bool:
    return (eviction.attempt, eviction.restart) == group


def _eviction(observed: Observed, status: TrainingRunStatus, jobset: JobSetView, now: datetime) -> QueueEviction | None:
    """The eviction of the process group of the last reconcile, from the Workload of a suspended JobSet."""
    group = present_group(status)
    entry, seen = entry_of(status, group), observed.workload
    if not jobset.suspended or not isinstance(seen, WorkloadView) or seen.evicted is None:
        return None
    evicted, known = seen.evicted, status.queue.eviction if status.queue is not None else None
    recorded = known is not None and known.time == stamp(
        evicted.at or now
    )  # the Workload keeps the condition while the next group waits
    if entry is None or entry.ended_at is not None or recorded:
        return None
    return QueueEviction(
        attempt=group.attempt,
        restart=group.restart,
        reason=evicted.reason or "Evicted",
        message=text(evicted.message, 1024),
        time=stamp(evicted.at or now),
    )


def _why(
    reading: WorkloadReading | None, jobset: JobSetView, waited_seconds: float, now: datetime
) -> tuple[QueueReason | StallReason, str]:
    """Reason and clause about what a run waits for. A reason that is a `StallReason` needs a user."""
    match reading:
        case NoKueue():
            why = (
                "the cluster does not serve Kueue's Workloads (kueue.x-k8s.io/v1beta2); install Kueue, or leave "
                "scheduling.queue out"
            )
            return "KueueMissing", why
        case NoWorkload() if waited_seconds > TAKEN_UP_SECONDS:
            why = (
                f"Kueue has made no Workload for JobSet {jobset.name}; see that it runs, that jobset.x-k8s.io/jobset "
                "is among its "
                "integrations, and that it manages this namespace"
            )
            return "WaitingForKueue", why
        case NoWorkload():
            return "WaitingForKueue", f"Kueue has not created a Workload yet for JobSet {jobset.name}"
        case WorkloadView():
            return _of_workload(reading, now)
        case _:
            because = f" ({reading.reason})" if isinstance(reading, WorkloadUnread) else ""
            why = f"the reason is in its Workload, which the operator does not read{because}"
            return (
                "WaitingForQuota",
                f"{why}: kubectl describe workloads --selector kueue.x-k8s.io/job-uid={jobset.uid}",
            )


def _of_workload(seen: WorkloadView, now: datetime) -> tuple[QueueReason | StallReason, str]:
    if seen.finished is not None:
        why = (
            f"Kueue does not start it, {seen.finished.reason}: {seen.finished.message}; fix what it names, then edit "
            "the run"
        )
        return "QueueRefused", why
    if not seen.active:
        after = f" after {seen.evicted.reason}: {seen.evicted.message}" if seen.evicted is not None else ""
        why = (
            f"Workload {seen.name} is deactivated{after}; set its spec.active to true, or suspend the run and resume it"
        )
        return "QueueDeactivated", why
    if seen.admitted:
        return "Admitted", "it is admitted, and about to start"
    if seen.requeue_at is not None and seen.requeue_at > now:
        after = f", after {seen.evicted.reason}: {seen.evicted.message}" if seen.evicted is not None else ""
        return "WaitingToRequeue", f"it is queued again at {stamp(seen.requeue_at)}{after}"
    if seen.unreserved is None:
        pending = [check for check in seen.checks if check.state != "Ready"]
        states = "; ".join(
            f"{check.name} is {check.state}" + (f": {check.message}" if check.message else "") for check in pending
        )
        where = f"quota is reserved in ClusterQueue {seen.cluster_queue}"
        return "WaitingForAdmissionCheck", f"{where}; {states}" if states else where
    missing = seen.unreserved
    if missing.reason == "Inadmissible":
        why = f"{missing.message}; correct scheduling.queue.name, or have the queue's owner fix it"
        return "QueueInadmissible", why
    return "WaitingForQuota", missing.message or "Kueue does not report what is missing; other runs may be before it"
