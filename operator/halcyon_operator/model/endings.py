"""Why a world of processes ended.

The first process to die takes the others with it: their peers see a broken connection and abort, and the JobSet deletes what is left. So
the cause is the earliest trouble of any pod, never what most pods say, and also not the job that the JobSet names (that may be a
peer's). Kubernetes writes whole seconds, so troubles of the same second are put in order by what can explain the others: a disruption
explains a deletion and an exit; a reserved exit code and a saved leave are deliberate, a crash may be an echo.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from halcyon_api.exit_codes import FATAL_CODES
from halcyon_api.progress import TerminationReport
from halcyon_operator.model.causes import BY_EXIT_CODE, EndCause
from halcyon_operator.model.keys import ProcessGroup, ProcessIndex
from halcyon_operator.model.views import PodEnding, PodView, Trouble

UNKNOWN_TIME = datetime.max.replace(tzinfo=UTC)
"""Sorts behind every known time."""

TROUBLE_RANKS: dict[Trouble, int] = {"disrupted": 0, "deleted": 1, "exited": 2}
"""Which trouble explains the others, when the clock (whole seconds) cannot tell."""

_RANKS: dict[EndCause, int] = {"preempted": 3, "hung": 4, "failed": 5}


@dataclass(frozen=True)
class GroupEnd:
    """The end of one world."""

    cause: EndCause
    message: str
    at: datetime | None = None
    step: int | None = None
    """Steps done, as far as a process said."""
    epoch_attempt: int | None = None
    """Attempt of the epoch that owns the root, when a process was fenced by it."""
    others_missing: bool = False
    """Whether it ended because a process gave up waiting for the others."""


def merge_endings(*groups: Iterable[PodEnding]) -> tuple[PodEnding, ...]:
    """One ending for each pod, from several sights of it.

    How it ended is in the latest sight that saw its end. How it began is in whichever sight has the earliest trouble: when the kubelet is
    done with a deleted pod, the API server sets the deletion's time anew, and then the exit seems to have come first.
    """
    merged: dict[str, PodEnding] = {}
    for ending in (ending for group in groups for ending in group):
        known = merged.get(ending.uid)
        if known is None:
            merged[ending.uid] = ending
            continue
        last = ending if ending.ended >= known.ended else known
        first = min(known, ending, key=lambda sight: (sight.at, TROUBLE_RANKS[sight.trouble]))
        merged[ending.uid] = replace(last, trouble=first.trouble, at=first.at, message=first.message)
    return tuple(merged.values())


def seen_endings(pods: Iterable[PodView], noted: Iterable[PodEnding] = ()) -> tuple[PodEnding, ...]:
    """What is known of endings, one for each process of a world: of its newest pod, if that has ended.

    A process begins again under its number only where a queue sent it away and its JobSet was resumed before a new attempt was made; how
    the one before it ended says nothing of the world that there is now.

    Args:
        pods: The pods that are there.
        noted: Endings of these and of pods that are gone.
    """
    pods = tuple(pods)
    merged = merge_endings(noted, (pod.ending for pod in pods if pod.ending is not None))
    newest = {(ending.group, ending.process): ending for ending in sorted(merged, key=lambda one: one.at)}
    alive = {(pod.group, pod.process) for pod in pods if pod.ending is None}
    return tuple(
        ending for ending in merged if ending is newest[ending.group, ending.process] and (ending.group, ending.process) not in alive
    )


def cause_of(ending: PodEnding) -> EndCause:
    """What the ending of one pod says."""
    if ending.trouble == "disrupted":
        return "preempted"
    if ending.trouble == "deleted":
        return "podDeleted"
    if ending.exit_code is not None and ending.exit_code in BY_EXIT_CODE:
        return BY_EXIT_CODE[ending.exit_code]
    return "hung" if ending.report is not None and ending.report.cause == "hung" else "failed"


def conclude(endings: Iterable[PodEnding], group: ProcessGroup, *, refused: bool = False) -> GroupEnd | None:
    """The end of a world from the endings of its pods, or None when no pod of it was seen to end other than well.

    Args:
        endings: Endings of pods of any world.
        world: The world asked for.
        refused: The JobSet stopped because a process asked not to be started again, so only such an exit is the cause.
    """
    own = [ending for ending in endings if ending.group == group]
    candidates = [ending for ending in own if cause_of(ending) != "completed"]
    if refused:
        candidates = [ending for ending in candidates if _fatal_cause(ending)] or candidates
    if any(not is_echo(ending) and ending.trouble != "deleted" for ending in candidates):
        # The clocks of two nodes differ: what ended because of another one did so after it, whatever they show.
        candidates = [ending for ending in candidates if not is_echo(ending)]
    if not candidates:
        return None
    first = min(candidates, key=lambda ending: _order(ending, refused))
    cause = (refused and _fatal_cause(first)) or cause_of(first)
    reports = [ending.report for ending in own if ending.report is not None]
    return GroupEnd(
        cause=cause,
        message=f"{describe(first)}{_last_words(first, reports)}",
        at=None if first.at == UNKNOWN_TIME else first.at,
        step=max((report.step for report in reports), default=None),
        epoch_attempt=_epoch(reports),
        others_missing=first.report is not None and bool(first.report.others_missing),
    )


def is_echo(ending: PodEnding) -> bool:
    """Whether a process ended because of others, by its own report: they were gone, or they never came."""
    return ending.report is not None and (ending.report.peer_lost is not None or bool(ending.report.others_missing))


def describe(ending: PodEnding) -> str:
    """One sentence for people about the ending of a pod."""
    if ending.trouble == "disrupted":
        return f"pod {ending.name} was disrupted: {ending.message}" if ending.message else f"pod {ending.name} was disrupted"
    if ending.trouble == "deleted":
        return f"pod {ending.name} was deleted"
    code = f"exit code {ending.exit_code}" if ending.exit_code is not None else "no exit code"
    if ending.report is not None and ending.report.message:
        return f"{ending.report.message} (pod {ending.name}, {code})"
    return f"pod {ending.name} ended with {code}: {ending.message}" if ending.message else f"pod {ending.name} ended with {code}"


def _last_words(first: PodEnding, reports: Iterable[TerminationReport]) -> str:
    """What was saved at the notice, where the ending itself does not say so."""
    if first.trouble == "exited":
        return ""
    leader = min((report for report in reports if report.saved is not None), key=lambda report: report.process_index, default=None)
    return f"; {leader.message}" if leader is not None else ""


def _fatal_cause(ending: PodEnding) -> EndCause | None:
    """What a reserved exit code says, whatever else befell the pod."""
    return BY_EXIT_CODE[ending.exit_code] if ending.exit_code is not None and ending.exit_code in FATAL_CODES else None


def _order(ending: PodEnding, refused: bool) -> tuple[datetime, int, ProcessIndex, str]:
    if refused:
        return ending.at, 0, ending.process, ending.uid
    rank = TROUBLE_RANKS[ending.trouble]
    return ending.at, _RANKS.get(cause_of(ending), rank) if ending.trouble == "exited" else rank, ending.process, ending.uid


def _epoch(reports: Iterable[TerminationReport]) -> int | None:
    return max((report.epoch_attempt for report in reports if report.epoch_attempt is not None), default=None)
