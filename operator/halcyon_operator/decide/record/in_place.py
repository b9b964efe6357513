"""How a process group ended whose processes started again in their pods: from the report of process 0 and the last
reports of pods, which have the last of these ends, and from the endings of pods that the operator saw. Pure.
"""

from dataclasses import replace
from datetime import timedelta

from halcyon_api.ends import EndCause, ExitCode
from halcyon_api.status.progress import EndInPlace, ReportedEnd
from halcyon_api.status.run_status import HistoryEntry, TrainingRunStatus
from halcyon_operator.decide.record.placement import left_alone
from halcyon_operator.model.endings import GroupEnd, conclude
from halcyon_operator.model.history import entry_of, process_of
from halcyon_operator.model.untrusted import moment
from halcyon_operator.model.views import Observed, PodEnding, ProcessGroup

_NOTICE = timedelta(minutes=10)
"""Longest time between the notice of one pod and the exit of the others after their save."""


def ends_in_place(observed: Observed, group: ProcessGroup) -> list[EndInPlace]:
    """The ends of this process group that are reported, oldest first."""
    reports = (*observed.reports_at_end(group).values(), observed.report_of(group))
    found = {end.number: end for one in reports if one for end in one.ends_in_place or ()}
    return [found[number] for number in sorted(found)]


def end_after(entry: HistoryEntry, observed: Observed) -> EndInPlace | None:
    """How an entry of the history is reported to have ended, if its processes started again in their pods."""
    found = ends_in_place(observed, ProcessGroup(entry.attempt, entry.restart))
    return next((end for end in found if end.number == entry.in_place + 1), None)


def ending_in_place(
    observed: Observed, status: TrainingRunStatus, group: ProcessGroup, end: EndInPlace
) -> PodEnding | None:
    """The end of the process that ended first, as an ending of its pod; None if its pod ended and nobody knows how.

    Args:
        observed: The observation.
        status: The run's status, with the topology of the process group.
        group: The process group.
        end: The end.
    """
    process, at = process_of(status, end.process), min(moment(end.at) or observed.now, observed.now)
    seen = [one for one in (*observed.endings, *observed.replaced) if one.group == group]
    if end.pod_lost:
        seen = [one for one in seen if one.process == process]
    elif end.exit_code == ExitCode.PREEMPTED:
        # It saved and ended because another pod got a notice.
        seen = [one for one in seen if one.trouble in ("disrupted", "deleted") and abs(one.at - at) < _NOTICE]
    else:
        seen = []
    if seen or (end.pod_lost and end.exit_code is None):
        return min(seen, key=lambda one: abs(one.at - at), default=None)
    pod = next((pod for pod in observed.pods_of(group) if pod.process == process), None)
    return PodEnding(
        uid=pod.uid if pod else "",
        name=pod.name if pod else f"of process {end.process}",
        run_uid=observed.run.uid,
        group=group,
        process=process,
        trouble="exited",
        at=at,
        ended=True,
        exit_code=end.exit_code,
        report=end.report if isinstance(end, ReportedEnd) else None,
        node=pod.node if pod else "",
        ran=True,
    )


def ends_that_count(observed: Observed, status: TrainingRunStatus, group: ProcessGroup) -> tuple[PodEnding, ...]:
    """The endings that explain the end of a process group: where pods left because they had replaced all others, those
    of the others.
    """
    entry = entry_of(status, group)
    left = observed.reports_at_end(group).values()
    if entry is None or all(report.cause != EndCause.NOT_REJOINED for report in left):
        return observed.endings
    began = moment(entry.started_at)
    lost = tuple(one for one in observed.replaced if one.group == group and began is not None and one.at > began)
    return lost or observed.endings


def conclude_in_place(
    ending: PodEnding | None, group: ProcessGroup, end: EndInPlace, status: TrainingRunStatus
) -> GroupEnd:
    """The end of the process group."""
    unseen = GroupEnd(EndCause.PREEMPTED, f"the pod of process {end.process} was replaced while no operator looked")
    found = (ending and conclude((ending,), group)) or unseen
    if ending and found.cause == EndCause.POD_DELETED and ending.node in left_alone(status):
        found = replace(found, cause=EndCause.MOVED, message=f"node {ending.node} is avoided: {found.message}")
    return replace(found, step=max(found.step or 0, end.step) or None)
