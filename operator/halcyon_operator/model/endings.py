"""Why a process group ended.

When one process ends, the others end too: they see a broken connection and abort, and the JobSet deletes the remaining
pods. So the cause is the earliest trouble of any pod, not the most frequent one, and not the job that the JobSet names
(which may be a later one). Kubernetes writes whole seconds, so troubles in the same second are ordered by which can
cause the others: a disruption can cause a deletion and an exit; a reserved exit code and an exit after a save are
deliberate; a crash may be the effect of another crash."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from halcyon_api.ends import BY_EXIT_CODE, FATAL_CODES, EndCause, ExitCode
from halcyon_api.status.progress import TerminationReport
from halcyon_operator.model.views import EndKind, PodEnding, PodView, ProcessGroup, ProcessIndex

UNKNOWN_TIME = datetime.max.replace(tzinfo=UTC)
"""Sorts after every known time."""

TROUBLE_RANKS: dict[EndKind, int] = {"disrupted": 0, "rejected": 0, "deleted": 1, "exited": 2}
"""Order of troubles in the same second: a lower rank explains a higher one."""

_RANKS: dict[EndCause, int] = {EndCause.EVICTED: 2, EndCause.PREEMPTED: 3, EndCause.HUNG: 4, EndCause.FAILED: 5}


@dataclass(frozen=True)
class GroupEnd:
    """The end of one process group."""

    cause: EndCause
    message: str
    at: datetime | None = None
    step: int | None = None
    """Steps done, by the highest report of its processes."""
    epoch_attempt: int | None = None
    """Attempt of the epoch that owns the root, if that epoch fenced a process."""
    others_missing: bool = False
    """Whether a process ended because the others did not join in time."""

    @property
    def is_failure(self) -> bool:
        """Whether the end counts against `recovery.maxRestarts`."""
        return self.cause.end.budget == "failure"


def merge_endings(*groups: Iterable[PodEnding]) -> tuple[PodEnding, ...]:
    """One ending for each pod, from several observations of it.

    The latest observation shows how the pod ended. The observation with the earliest trouble shows how the end began:
    after the kubelet has finished a deleted pod, the API server overwrites the time of the deletion, and the exit then
    seems to be the first trouble.
    """
    merged: dict[str, PodEnding] = {}
    for ending in (ending for group in groups for ending in group):
        known = merged.get(ending.uid)
        if known is None:
            merged[ending.uid] = ending
            continue
        last = ending if ending.ended >= known.ended else known
        first = min(known, ending, key=lambda seen: (seen.at, TROUBLE_RANKS[seen.trouble]))
        if known.ended and known.at == UNKNOWN_TIME:
            first = known  # It had ended before anything else was seen.
        merged[ending.uid] = replace(last, trouble=first.trouble, at=first.at, message=first.message)
    return tuple(merged.values())


def seen_endings(
    pods: Iterable[PodView], noted: Iterable[PodEnding]
) -> tuple[tuple[PodEnding, ...], tuple[PodEnding, ...]]:
    """The known endings, one for each process of a group: the ending of its newest pod.

    Two pods have the same process and group if a lost pod was replaced alone, or if a queue evicted the first one and
    its JobSet was resumed before the next attempt. The ending of the first pod then does not concern the present
    processes.

    Args:
        pods: The present pods.
        noted: Endings of these pods and of deleted pods.

    Returns:
        These endings, and those of the pods that were replaced.
    """
    pods = tuple(pods)
    merged = merge_endings(noted, (pod.ending for pod in pods if pod.ending is not None))
    newest = {(ending.group, ending.process): ending for ending in sorted(merged, key=lambda one: one.at)}
    alive = {(pod.group, pod.process) for pod in pods if pod.ending is None}
    seen = tuple(
        ending
        for ending in merged
        if ending is newest[ending.group, ending.process] and (ending.group, ending.process) not in alive
    )
    return seen, tuple(ending for ending in merged if ending not in seen)


def cause_of(ending: PodEnding) -> EndCause:
    """The cause that the ending of one pod shows."""
    if ending.trouble == "disrupted":
        return EndCause.PREEMPTED
    if ending.trouble == "rejected":
        return EndCause.REJECTED
    if ending.trouble == "deleted":
        return EndCause.POD_DELETED
    if ending.evicted and _fatal_cause(ending) is None:
        return EndCause.EVICTED
    if ending.exit_code is not None and ending.exit_code in BY_EXIT_CODE:
        return BY_EXIT_CODE[ending.exit_code]
    return EndCause.HUNG if ending.report and ending.report.cause == EndCause.HUNG else EndCause.FAILED


def conclude(endings: Iterable[PodEnding], group: ProcessGroup, *, refused: bool = False) -> GroupEnd | None:
    """The end of a process group from the endings of its pods; None if no pod of the group failed, was deleted or
    disrupted.

    Args:
        endings: Endings of pods of any group.
        group: The group.
        refused: The JobSet stopped at a reserved exit code, so only such an exit can be the cause.
    """
    own = [ending for ending in endings if ending.group == group]
    candidates = [ending for ending in own if cause_of(ending) != EndCause.COMPLETED]
    if refused:
        candidates = [ending for ending in candidates if _fatal_cause(ending)] or candidates
    if any(ending.at == UNKNOWN_TIME and ending.trouble != "deleted" for ending in candidates):
        # The deletions are the JobSet's clean-up: after a deletion by a user, each end has a time.
        candidates = [ending for ending in candidates if ending.trouble != "deleted"]
    if any(not is_echo(ending) and ending.trouble != "deleted" for ending in candidates):
        # The clocks of two nodes differ: an end that another one caused came after it, even if its time is earlier.
        candidates = [ending for ending in candidates if not is_echo(ending)]
    if any(ending.evicted for ending in candidates):
        # The others saved and ended with it, perhaps before it.
        candidates = [
            ending
            for ending in candidates
            if ending.evicted or ending.trouble != "exited" or cause_of(ending) != EndCause.PREEMPTED
        ]
    if not candidates:
        return None
    first = min(candidates, key=lambda ending: _order(ending, refused))
    cause = (refused and _fatal_cause(first)) or cause_of(first)
    reports = [ending.report for ending in own if ending.report]
    return GroupEnd(
        cause=cause,
        message=f"{ending_sentence(first)}{_save_clause(first, reports)}",
        at=None if first.at == UNKNOWN_TIME else first.at,
        step=max((report.step for report in reports), default=None),
        epoch_attempt=max(
            (report.epoch_attempt for report in reports if report.epoch_attempt is not None), default=None
        ),
        others_missing=bool(first.report and first.report.others_missing),
    )


def is_echo(ending: PodEnding) -> bool:
    """Whether a process reported that it ended because of the others: they had ended, or they did not join."""
    report = ending.report
    return bool(report and (report.peer_lost is not None or report.others_missing))


def fails_job(ending: PodEnding) -> bool:
    """Whether the Job of a process group that restarts in place fails with this end, so that all its pods are replaced
    (`objects.jobset`).
    """
    code = ending.exit_code
    if code in FATAL_CODES or code == ExitCode.NOT_REJOINED:
        return True
    return code == ExitCode.FAILURE and ending.trouble != "disrupted"


def ending_sentence(ending: PodEnding) -> str:
    """One sentence for the user about the ending of a pod."""
    details = f": {ending.message}" if ending.message else ""
    if ending.trouble == "disrupted":
        return f"pod {ending.name} was disrupted{details}"
    if ending.trouble == "rejected":
        return f"node {ending.node} did not start pod {ending.name}: {ending.message}"
    if ending.trouble == "deleted":
        return f"pod {ending.name} was deleted"
    said = ending.report.message if ending.report else ""
    if ending.evicted:
        return f"pod {ending.name} was evicted by its node: {ending.evicted}{f'; {said}' if said else ''}"
    code = "no exit code" if ending.exit_code is None else f"exit code {ending.exit_code}"
    return f"{said} (pod {ending.name}, {code})" if said else f"pod {ending.name} ended with {code}{details}"


def _save_clause(first: PodEnding, reports: Iterable[TerminationReport]) -> str:
    """Clause about the save after a preemption notice; empty if the ending itself reports it."""
    if first.trouble == "exited":
        return ""
    saved = (report for report in reports if report.saved is not None)
    leader = min(saved, key=lambda report: report.process_index, default=None)
    return f"; {leader.message}" if leader else ""


def _fatal_cause(ending: PodEnding) -> EndCause | None:
    """The cause that a reserved exit code means; None for other exits."""
    return BY_EXIT_CODE.get(ending.exit_code or 0) if ending.exit_code in FATAL_CODES else None


def _order(ending: PodEnding, refused: bool) -> tuple[datetime, int, ProcessIndex, str]:
    if refused:
        return ending.at, 0, ending.process, ending.uid
    rank = TROUBLE_RANKS[ending.trouble]
    rank = _RANKS.get(cause_of(ending), rank) if ending.trouble == "exited" else rank
    return ending.at, rank, ending.process, ending.uid
