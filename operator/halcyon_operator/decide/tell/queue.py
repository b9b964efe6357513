"""Sentences and events about a run in a queue: since when it waits, for what, and why it lost its quota. Pure."""

from collections.abc import Iterator
from datetime import datetime

from halcyon_api.status.run_status import QueueStatus, TrainingRunStatus
from halcyon_operator.decide.tell.conditions import Description
from halcyon_operator.model.decision import Event
from halcyon_operator.model.history import group_of, had_processes
from halcyon_operator.model.reasons import QueueReason, StallReason, stall_reason
from halcyon_operator.model.untrusted import seconds_between, stamp
from halcyon_operator.model.views import JobSetView, Observed
from halcyon_operator.model.workload import NoKueue, NoWorkload, WorkloadReading, WorkloadUnread, WorkloadView

TAKEN_UP_SECONDS = 60.0
"""Time for Kueue to create a Workload. After it the message lists what the user can check."""


def evicted_sentence(queue: QueueStatus) -> str:
    """Why a queue took its quota back."""
    eviction = queue.eviction
    if eviction is None:
        return f"queue {queue.name} suspended the JobSet"
    return f"queue {queue.name} took its quota back, {eviction.reason}" + (
        f": {eviction.message.rstrip('.')}" if eviction.message else ""
    )


def describe_queued(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> Description:
    """The description of an attempt whose JobSet a queue holds."""
    queue, group = status.queue or QueueStatus(name=jobset.queue), group_of(status, jobset)
    if had_processes(observed, status, group) and observed.pods_of(group):
        return Description("Restarting", "QueueEvicted", f"{evicted_sentence(queue)}; its processes save and exit")
    return describe_waiting(observed.workload, queue, f"JobSet {jobset.name}", jobset.uid, observed.now)


def describe_waiting(
    reading: WorkloadReading | None, queue: QueueStatus, owner: str, uid: str, now: datetime
) -> Description:
    """The description of a run that waits in a queue."""
    reason, why = _why(reading, owner, uid, seconds_between(queue.waiting_since, now), now)
    message = f"waiting in queue {queue.name} since {queue.waiting_since or stamp(now)}: {why}"
    stalled = stall_reason(reason)
    return Description("Queued", reason, message, stalled, message if stalled else "")


def queue_changed(before: TrainingRunStatus, after: TrainingRunStatus, now: datetime) -> Iterator[Event]:
    """The event when the run begins to wait in a queue, or is admitted."""
    waited = before.queue and before.queue.waiting_since
    queue, attempt = after.queue, after.attempt
    if queue is None or (waited is None) == (queue.waiting_since is None):
        return
    if queue.waiting_since is not None:
        message = f"Attempt {attempt} waits in queue {queue.name}"
        yield Event("Normal", "Queued", message, f"queued/{attempt}/{queue.waiting_since}")
    else:
        message = f"Attempt {attempt} was admitted by queue {queue.name} after {seconds_between(waited, now):.0f} s"
        yield Event("Normal", "Admitted", message, f"admitted/{attempt}/{waited}")


def _why(
    reading: WorkloadReading | None, owner: str, uid: str, waited_seconds: float, now: datetime
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
                f"Kueue has made no Workload for {owner}; see that it runs, that jobset.x-k8s.io/jobset "
                "is among its integrations, and that it manages this namespace"
            )
            return "WaitingForKueue", why
        case NoWorkload():
            return "WaitingForKueue", f"Kueue has not created a Workload yet for {owner}"
        case WorkloadView():
            return _of_workload(reading, now)
        case _:
            because = f" ({reading.reason})" if isinstance(reading, WorkloadUnread) else ""
            why = f"the reason is in its Workload, which the operator does not read{because}"
            return (
                "WaitingForQuota",
                f"{why}: kubectl describe workloads --selector kueue.x-k8s.io/job-uid={uid}",
            )


def _of_workload(seen: WorkloadView, now: datetime) -> tuple[QueueReason | StallReason, str]:
    after = f" after {seen.evicted.reason}: {seen.evicted.message}" if seen.evicted else ""
    if seen.finished is not None:
        why = (
            f"Kueue does not start it, {seen.finished.reason}: {seen.finished.message}; fix what it names, then edit "
            "the run"
        )
        return "QueueRefused", why
    if not seen.active:
        why = (
            f"Workload {seen.name} is deactivated{after}; set its spec.active to true, or suspend the run and resume it"
        )
        return "QueueDeactivated", why
    if seen.admitted:
        return "Admitted", "it is admitted, and about to start"
    if seen.requeue_at is not None and seen.requeue_at > now:
        return "WaitingToRequeue", f"it is queued again at {stamp(seen.requeue_at)}{after and f',{after}'}"
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
