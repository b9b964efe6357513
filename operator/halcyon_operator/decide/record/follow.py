"""Updates the status from the JobSet of the present attempt: its process groups, their ends, the restarts and their
counts.

The JobSet's own counters give the number of restarts and of counted restarts, also for the time when the operator was
down. The reason of a restart comes from the endings of the pods, if they were seen. Otherwise a restart that the JobSet
counted is a failure, and one that it did not count is a preemption. `status.jobSetRestarts` and
`status.jobSetRestartsCounted` have the counters of the last reconcile, so every restart is counted exactly once.

A restart in place leaves JobSet and pods as they are. The report of process 0 numbers these ends, and the history has
the number of the last one that was counted."""

from dataclasses import replace
from datetime import datetime

from pydantic.alias_generators import to_snake

from halcyon_api.ends import EndCause, ExitCode
from halcyon_api.status.run_status import Restarts, TrainingRunStatus
from halcyon_operator.decide.record.completion import completion, early_end, final_step, said_at_end
from halcyon_operator.decide.record.history import resumed_step, shown, with_end, with_group, with_report
from halcyon_operator.decide.record.in_place import conclude_in_place, ending_in_place, ends_in_place, ends_that_count
from halcyon_operator.decide.record.placement import blames_for, placement_of, slow_blames, with_blames, with_no_room
from halcyon_operator.decide.record.queue import with_queue_cause
from halcyon_operator.decide.record.spec_hash import RETIRED
from halcyon_operator.decide.tell import events
from halcyon_operator.model.decision import Change
from halcyon_operator.model.endings import GroupEnd, conclude
from halcyon_operator.model.history import entry_of, group_of, had_processes, present_group
from halcyon_operator.model.untrusted import moment, stamp
from halcyon_operator.model.views import HeadUnreachable, JobSetView, Observed, ProcessGroup

MAX_GROUPS_PER_RECONCILE = 64
"""Maximum number of missed process groups whose endings are evaluated one by one."""
JOBSET_REFUSED = "FailJobSetFailurePolicyAction"
"""Reason of a JobSet that stopped at a reserved exit code of a trainer."""
MAX_ATTEMPTS_AHEAD = 1000
"""Maximum number of attempts that a run passes over because a fenced process reports them."""


def follow(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> Change:
    """Update the status from the JobSet of the present attempt, the endings of its pods and the trainer's report.

    Args:
        observed: The observation.
        status: The run's status, with the newest checkpoint.
        jobset: The JobSet of the present attempt.
    """
    if status.attempt_spec_hash == RETIRED:
        # The attempt is being stopped, so a process group that the JobSet starts now does not count.
        jobset = replace(jobset, restarts=status.job_set_restarts, restarts_counted=status.job_set_restarts_counted)
    change = _first_look(status, jobset, observed.now)
    restarted, failures = _account_restarts(observed, change.status, jobset)
    change = change.then(restarted)
    group = present_group(change.status)
    if entry_of(change.status, group) is None:
        change = change.updated(with_group(change.status, group, observed.now))
    again, failed = _account_in_place(observed, change.status, group)
    change, failures = change.then(again), failures + failed
    change = change.updated(_blaming_left(observed, change.status, group))
    change = change.then(_with_report(observed, change.status, group))
    end = _end_of_group(observed, change.status, jobset, group)
    if end is not None:
        ended, failed = end
        change, failures = change.then(ended), failures + failed
    status = with_manual_suspension(observed, change.status, jobset)
    return change.updated(_count_failures(observed.run.status, status, failures))


def _blaming_left(observed: Observed, status: TrainingRunStatus, group: ProcessGroup) -> TrainingRunStatus:
    """The status with blames for pods that have left their nodes. The report has their ends only when the others go on,
    and before that the next pod gets its node.
    """
    for ending in observed.endings_of(group):
        if ending.exit_code == ExitCode.LEAVES_NODE and (end := conclude((ending,), group)):
            blames = blames_for(replace(observed, endings=(ending,)), group, end)
            status = with_blames(status, observed.run.spec, blames)
    return status


def _with_report(observed: Observed, status: TrainingRunStatus, group: ProcessGroup) -> Change:
    """The status with the trainer's report, if it comes from the present process group."""
    report, entry = observed.report_of(group), entry_of(status, group)
    if report is None or (step := resumed_step(report)) is None:
        return Change(status)
    if entry is not None and report.in_place < entry.in_place:
        return Change(status)
    resumed = events.resumed(status, group, report, step)
    status = with_report(status, group, report)
    spec = observed.run.spec
    if spec is None or spec.task not in ("data", "sample"):  # these do no steps
        status = status.but(progress=shown(report.progress, status.progress))
    if spec is not None and report.slow is not None:
        blames = slow_blames(observed, status, placement_of(status, spec), report.slow)
        status = with_blames(status, spec, blames)
        resumed += tuple(events.slow_process(group, report.slow, blame.node) for blame in blames)
    return Change(status, resumed)


def _end_of_group(
    observed: Observed, status: TrainingRunStatus, jobset: JobSetView, group: ProcessGroup
) -> tuple[Change, int] | None:
    """The change at the end of the present process group, and its number of failures; None if the group has not
    ended.
    """
    entry = entry_of(status, group)
    if entry is None or entry.ended_at is not None:
        return None
    at = jobset.finished_at or observed.now
    if jobset.outcome == "failed":
        refused = jobset.failure_reason == JOBSET_REFUSED
        end = _concluded(observed, status, group, refused=refused)
        end = end or GroupEnd(EndCause.UNKNOWN if refused else EndCause.FAILED, jobset.failure_message)
        if isinstance(observed.head, HeadUnreachable):
            owner = min(end.epoch_attempt or 0, status.attempt + MAX_ATTEMPTS_AHEAD)
            status = status.but(root_attempt=max(status.root_attempt, owner))
        return _ended(observed, status, group, end, at), int(end.is_failure)
    if jobset.outcome == "completed":
        return _completed(observed, status, jobset, group), 0
    if jobset.deleting:
        end = GroupEnd(EndCause.JOB_SET_DELETED, f"JobSet {jobset.name} was deleted")
        return _ended(observed, status, group, end, observed.now, restarting=True), 0
    return None


def _ended(
    observed: Observed,
    status: TrainingRunStatus,
    group: ProcessGroup,
    end: GroupEnd,
    at: datetime,
    *,
    restarting: bool = False,
) -> Change:
    """The change at the end of a process group, with the blames for its nodes."""
    status = with_end(status, group, end.cause, end.message, at, end.step)
    status = with_blames(status, observed.run.spec, blames_for(observed, group, end))
    return Change(status, events.ended(status, group, end, restarting=restarting))


def _completed(observed: Observed, status: TrainingRunStatus, jobset: JobSetView, group: ProcessGroup) -> Change:
    """The change at the end of a process group whose processes have all ended with exit code 0."""
    spec, at = observed.run.spec, jobset.finished_at or observed.now
    if spec is None:
        return Change(status)  # the next valid document says which step was the last one
    match completion(observed, status, spec, jobset):
        case "completed":
            last = final_step(observed, status, spec) if spec.task == "train" else None
            said = said_at_end(observed, status) if spec.task == "measure" else ""
            return Change(with_end(status, group, EndCause.COMPLETED, said, at, last))
        case "endedEarly":
            end = GroupEnd(EndCause.ENDED_EARLY, early_end(observed, status, spec))
            return _ended(observed, status, group, end, at)
        case "unseen":
            return Change(status)


def count_restart(restarts: Restarts, cause: EndCause, times: int = 1) -> Restarts:
    """The restarts with the counter of one cause increased."""
    name = to_snake(cause.counter)
    return restarts.but(**{name: getattr(restarts, name) + times}, total=restarts.total + times)


def count_next_attempt(status: TrainingRunStatus, cause: EndCause) -> Restarts:
    """The restarts with the new attempt counted. It follows a process group that ended with this cause."""
    asked = status.restart_waits and cause.end.budget == "final"
    return count_restart(status.restarts, EndCause.REQUESTED if asked else cause)


def _first_look(status: TrainingRunStatus, jobset: JobSetView, now: datetime) -> Change:
    if status.job_set_uid is not None:
        return Change(status)
    started = status.but(
        job_set_name=jobset.name,
        job_set_uid=jobset.uid,
        job_set_restarts=0,
        job_set_restarts_counted=0,
        started_at=status.started_at or stamp(now),
    )
    return Change(started, events.attempt_started(started))


def _account_restarts(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> tuple[Change, int]:
    """Count every restart since the last reconcile.

    Returns the change, and the number of failures among the restarts.
    """
    before, after = status.job_set_restarts, max(status.job_set_restarts, jobset.restarts)
    counted = min(max(0, jobset.restarts_counted - status.job_set_restarts_counted), after - before)
    attempt = status.attempt
    seen = {
        restart: end
        for restart in range(max(before, after - MAX_GROUPS_PER_RECONCILE), after)
        if (end := _concluded(observed, status, ProcessGroup(attempt, restart))) is not None
    }
    failures = sum(end.is_failure for end in seen.values())
    unseen = after - before - len(seen)
    unseen_failures = min(max(0, counted - failures), unseen)
    change = Change(status)
    for restart, end in seen.items():
        group = ProcessGroup(attempt, restart)
        again, failed = _account_in_place(observed, change.status, group)
        change, failures = change.then(again), failures + failed
        restarts = count_restart(change.status.restarts, end.cause)
        change = change.updated(change.status.but(restarts=restarts))
        change = change.then(_ended(observed, change.status, group, end, end.at or observed.now, restarting=True))
    restarts = change.status.restarts
    if unseen:
        restarts = count_restart(restarts, EndCause.FAILED, unseen_failures)
        restarts = count_restart(restarts, EndCause.PREEMPTED, unseen - unseen_failures)
        cause = EndCause.FAILED if unseen_failures else EndCause.PREEMPTED
        message = "the JobSet restarted it while the operator was down"
        change = change.updated(
            with_end(change.status, ProcessGroup(attempt, before), cause, message, observed.now, None)
        )
    counted += status.job_set_restarts_counted
    status = change.status.but(restarts=restarts, job_set_restarts=after, job_set_restarts_counted=counted)
    return change.updated(status), failures + unseen_failures


def _account_in_place(observed: Observed, status: TrainingRunStatus, group: ProcessGroup) -> tuple[Change, int]:
    """Count every restart in place since the last reconcile. The causes of those that the report does not have any more
    are not known, so they count under the cause of the next one.

    Returns the change, and the number of failures among the restarts.
    """
    change, failures, entry = Change(status), 0, entry_of(status, group)
    last = entry.in_place if entry else 0
    for found in ends_in_place(observed, group) if entry is None or entry.ended_at is None else ():
        if found.number <= last:
            continue
        ending = ending_in_place(observed, change.status, group, found)
        end, at = (
            conclude_in_place(ending, group, found, change.status),
            min(moment(found.at) or observed.now, observed.now),
        )
        seen = observed if ending is None else replace(observed, endings=(ending,))
        change = change.then(_ended(seen, change.status, group, end, end.at or at, restarting=True))
        times, last = found.number - last, found.number
        restarts = count_restart(change.status.restarts, end.cause, times)
        restarts = restarts.but(in_place=restarts.in_place + times)
        status = change.status.but(restarts=restarts)
        change = change.updated(with_group(status, group, at, last) if entry is not None else status)
        failures += int(end.is_failure)
    return change, failures


def _concluded(
    observed: Observed, status: TrainingRunStatus, group: ProcessGroup, *, refused: bool = False
) -> GroupEnd | None:
    end = conclude(ends_that_count(observed, status, group), group, refused=refused)
    if end and end.cause == EndCause.POD_DELETED and _is_echo(observed, status, group):
        end = None
    return with_queue_cause(status, group, end and with_no_room(observed, group, end))


def _is_echo(observed: Observed, status: TrainingRunStatus, group: ProcessGroup) -> bool:
    """Whether the seen deletions may be the JobSet's own clean-up, because a process ended without its end being seen.

    This happens after an outage of the API server or a watch: the pod that ended first is deleted at once, the others
    after their save.
    """
    known = {ending.process for ending in observed.endings_of(group)}
    known |= {pod.process for pod in observed.pods_of(group)}
    return status.topology is not None and len(known) < status.topology.hosts


def _count_failures(before: TrainingRunStatus, status: TrainingRunStatus, failures: int) -> TrainingRunStatus:
    """Count failures in a row without a new checkpoint. With a new checkpoint, all failures since the last reconcile
    count as one, because their order is unknown."""
    saved = status.resume_step > before.resume_step
    count = min(failures, 1) if saved else status.failures_without_checkpoint + failures
    return status.but(failures_without_checkpoint=count)


def with_manual_suspension(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> TrainingRunStatus:
    """The status with the end of a process group whose JobSet a user has suspended, such as an administrator who needs
    the hardware or drains a cluster.

    The operator only shows it, and records the end at once. So even after its own restart it knows that this JobSet
    must not continue when it is resumed: the new processes would have the epoch of processes that may still be ending.
    The operator then creates a new attempt (`next/attempts.py`).

    Args:
        observed: The observation.
        status: The run's status, with all restarts counted.
        jobset: The JobSet of the present attempt.
    """
    group = group_of(status, jobset)
    by_hand = jobset.suspended and not jobset.queue and jobset.outcome == "running" and not jobset.deleting
    if not by_hand or not had_processes(observed, status, group):
        return status
    message = f"JobSet {jobset.name} was suspended by a user"
    return with_end(status, group, EndCause.PREEMPTED, message, observed.now, None)
