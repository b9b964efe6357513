"""What JobSet and the scheduler decide in a cluster, and what a new manager finds of the one before it. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

from halcyon_api.ends import FATAL_CODES, EndCause, ExitCode
from halcyon_api.status.goodput import WorldAccount
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.record.goodput import account
from halcyon_operator.decide.record.history import with_end
from halcyon_operator.model.endings import fails_job
from halcyon_operator.model.history import present_group
from halcyon_operator.model.untrusted import moment, precise_stamp, seconds_between
from halcyon_operator.model.views import Observed, PodEnding

Answer = Literal["replace", "restart", "restartCounted", "fail"]
"""Start the process alone again; all processes; all, and count it; or stop the attempt."""


def is_free(ending: PodEnding, *, alone: bool = True) -> bool:
    """Whether an end does not count against its process: a disruption, a notice, or, where the process may be replaced
    alone, that it leaves its host.
    """
    codes = (ExitCode.PREEMPTED, ExitCode.LEAVES_NODE)[: 1 + alone]
    return ending.trouble == "disrupted" or ending.exit_code in codes


def answer(ending: PodEnding, *, alone: bool, before: int) -> Answer:
    """What follows from the end of a process: the failure policy of `halcyon_operator.objects.jobset`.

    Args:
        ending: The end, which is not a success.
        alone: Whether a process may be replaced alone: the run has several.
        before: Ends of this process in this group that were not free (`is_free`).
    """
    free = is_free(ending, alone=alone)
    if not alone:
        return "restart" if free else "fail" if ending.exit_code in FATAL_CODES else "restartCounted"
    if fails_job(ending):
        codes: dict[int | None, Answer] = {ExitCode.NOT_REJOINED: "restart", ExitCode.FAILURE: "restartCounted"}
        return codes.get(ending.exit_code, "fail")
    return "replace" if free or not before else "restartCounted"


def ranked(hosts: Sequence[str], avoided: Collection[str], last: Collection[str], lost: Mapping[str, int]) -> list[str]:
    """The hosts that processes may use, the best first.

    Args:
        hosts: All of them, in the user's order.
        avoided: Those that no process may use.
        last: Those that are used only where no other is left.
        lost: For a host that was lost: a number that is greater for a later loss.
    """
    return sorted(set(hosts) - set(avoided), key=lambda host: (host in last, lost.get(host, 0), hosts.index(host)))


def resumed(observed: Observed, now: datetime, *, waited: Literal["capacity_wait", "suspended"]) -> TrainingRunStatus:
    """The status as a new manager takes it over: the processes of the one before it have ended.

    Args:
        observed: The run with its status.
        now: The time.
        waited: Where the time since then counts: as a wait for hosts in the queue, or as no time of the run.
    """
    status = observed.run.status
    goodput, spent = status.goodput, status.spent
    if goodput is None:
        return status
    left = min(moment(goodput.counted_until) or now, now)
    status = with_end(status, present_group(status), EndCause.PREEMPTED, "the manager of the run ended", left, None)
    counted = account(replace(observed, now=left), status)
    goodput, history = counted.goodput or goodput, counted.history
    seconds, current = seconds_between(goodput.counted_until, now), goodput.current.seconds
    update: dict[str, object] = {"counted_until": precise_stamp(now)}
    if waited == "suspended":
        update["suspended_seconds"] = goodput.suspended_seconds + seconds
    else:
        more = current.but(capacity_wait=round(current.capacity_wait + seconds, 3))
        update["current"] = WorldAccount(seconds=more)
    if spent is not None:
        spent = spent.but(pods=0, counted_until=precise_stamp(now))
    return status.but(history=history, goodput=goodput.but(**update), spent=spent)
