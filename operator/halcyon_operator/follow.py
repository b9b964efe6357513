"""What is known of the present attempt once its JobSet has been looked at: its worlds, their ends, the restarts and what they count.

The JobSet's own counters are the truth about how often it restarted and how many restarts it counted, also for the time when the operator
was away. Why a restart happened is taken from the endings of the pods where they were seen; of the rest, what the JobSet counted is a
failure and what it did not count a preemption. `status.jobSetRestarts` and `status.jobSetRestartsCounted` are where the last look ended, so
every restart is put to account exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from halcyon_api.status import Restarts, TrainingRunStatus
from halcyon_operator import events
from halcyon_operator.decision import Event
from halcyon_operator.endings import EndCause, WorldEnd, conclude
from halcyon_operator.history import entry_of, resumed_step, shown, with_end, with_report, with_world
from halcyon_operator.manual_suspension import with_manual_suspension
from halcyon_operator.nodes import blamed_node, for_want_of_nodes, with_blame
from halcyon_operator.placement import placement_of
from halcyon_operator.plain import stamp
from halcyon_operator.queueing import by_queue
from halcyon_operator.recovery import FAILURES
from halcyon_operator.spec_hash import RETIRED
from halcyon_operator.views import JobSetView, Observed, World

MAX_WORLDS_A_LOOK = 64
"""Of how many missed worlds the endings are looked at one by one."""

JOBSET_REFUSED = "FailJobSetFailurePolicyAction"
"""Reason of a JobSet that stopped because a trainer asked not to be started again."""

_FINAL = ("badConfiguration", "noValidCheckpoint", "runChanged", "rootTaken", "diverged")
"""Ends that stop a run until its spec is edited, or a restart is asked for."""

_RESTART_FIELDS: dict[str, str] = {
    "preempted": "preempted",
    "queueEvicted": "queue_evicted",
    "failed": "failed",
    "hung": "hung",
    "podDeleted": "pod_deleted",
    "noRoom": "no_room",
    "jobSetDeleted": "job_set_deleted",
    "specChanged": "spec_changed",
    "requested": "requested",
    "suspended": "resumed",
    "fenced": "fenced",
    "resized": "resized",
    "moved": "moved",
    "heldBack": "held_back",
    "rootUnusable": "root_unusable",
    "dataUnreachable": "data_unreachable",
    "completed": "spec_changed",  # and then it was to do more steps
    **dict.fromkeys(_FINAL, "spec_changed"),
}
"""Which count of `status.restarts` a world's end adds to when another world follows; `unknown` for all others."""


@dataclass(frozen=True)
class Followed:
    """The status after a look at the attempt's JobSet, and what is worth an event."""

    status: TrainingRunStatus
    events: tuple[Event, ...] = ()


def follow(observed: Observed, status: TrainingRunStatus, jobset: JobSetView, now: datetime) -> Followed:
    """Bring the status up to date with the JobSet of the present attempt, the endings of its pods and the trainer's report.

    Args:
        observed: All that was looked at.
        status: The run's status, with the newest checkpoint already in it.
        jobset: The JobSet of the present attempt.
        now: The time.
    """
    if status.attempt_spec_hash == RETIRED:
        # It is being stopped: a world that the JobSet still begins is none.
        jobset = replace(jobset, restarts=status.job_set_restarts, restarts_counted=status.job_set_restarts_counted)
    status, told = _first_look(status, jobset, now)
    status, failures, ended = _account_restarts(observed, status, jobset, now)
    told += ended
    world = (status.attempt, status.job_set_restarts)
    if entry_of(status, world) is None:
        status = with_world(status, world, now)
    report = observed.report
    if report is not None and (report.attempt, report.restart) == world and (step := resumed_step(report)) is not None:
        told += events.resumed(status, world, report, step)
        status = with_report(status, world, report)
        if observed.run.spec is None or observed.run.spec.task != "data":  # which has no steps to be at
            status = status.model_copy(update={"progress": shown(report.progress, status.progress)})
    if jobset.outcome == "failed" and _is_open(status, world):
        end = _concluded(observed, status, world, refused=jobset.failure_reason == JOBSET_REFUSED)
        end = end or WorldEnd("unknown" if jobset.failure_reason == JOBSET_REFUSED else "failed", jobset.failure_message)
        status = with_end(status, world, end.cause, end.message, jobset.finished_at or now, end.step)
        status = status.model_copy(update={"root_attempt": max(status.root_attempt, end.epoch_attempt or 0)})
        status = _with_blame(observed, status, world, end)
        failures += end.cause in FAILURES
        told += events.ended(status, world, end, restarting=False)
    elif jobset.outcome == "completed":
        status = with_end(status, world, "completed", "", jobset.finished_at or now, _final_step(observed))
    elif jobset.deleting and _is_open(status, world):
        end = WorldEnd("jobSetDeleted", f"JobSet {jobset.name} was deleted")
        status = with_end(status, world, end.cause, end.message, now, None)
        told += events.ended(status, world, end, restarting=True)
    status = with_manual_suspension(observed, status, jobset, now)
    return Followed(_count_failures(observed.run.status, status, failures), told)


def count_restart(restarts: Restarts, cause: str, times: int = 1) -> Restarts:
    """The restarts with some more of one cause."""
    name = _RESTART_FIELDS.get(cause, "unknown")
    return restarts.model_copy(update={name: getattr(restarts, name) + times, "total": restarts.total + times})


def count_next_attempt(status: TrainingRunStatus, cause: str) -> Restarts:
    """The restarts with the one that a new attempt is, after a world that ended because of a cause."""
    asked = status.restart is not None and status.restart.waits and cause in _FINAL
    return count_restart(status.restarts, "requested" if asked else cause)


def _first_look(status: TrainingRunStatus, jobset: JobSetView, now: datetime) -> tuple[TrainingRunStatus, tuple[Event, ...]]:
    if status.job_set_uid is not None:
        return status, ()
    started = status.model_copy(
        update={
            "job_set_name": jobset.name,
            "job_set_uid": jobset.uid,
            "job_set_restarts": 0,
            "job_set_restarts_counted": 0,
            "started_at": status.started_at or stamp(now),
        }
    )
    return started, events.attempt_started(started)


def _account_restarts(
    observed: Observed, status: TrainingRunStatus, jobset: JobSetView, now: datetime
) -> tuple[TrainingRunStatus, int, tuple[Event, ...]]:
    """Put every restart since the last look to account: status, number of failures among them, events."""
    before, after = status.job_set_restarts, max(status.job_set_restarts, jobset.restarts)
    counted = min(max(0, jobset.restarts_counted - status.job_set_restarts_counted), after - before)
    attempt = status.attempt
    seen = {
        restart: end
        for restart in range(max(before, after - MAX_WORLDS_A_LOOK), after)
        if (end := _concluded(observed, status, (attempt, restart))) is not None
    }
    failures = sum(end.cause in FAILURES for end in seen.values())
    unseen = after - before - len(seen)
    unseen_failures = min(max(0, counted - failures), unseen)
    restarts = status.restarts
    told: tuple[Event, ...] = ()
    for restart, end in seen.items():
        restarts = count_restart(restarts, end.cause)
        status = with_end(status, (attempt, restart), end.cause, end.message, end.at or now, end.step)
        status = _with_blame(observed, status, (attempt, restart), end)
        told += events.ended(status, (attempt, restart), end, restarting=True)
    if unseen:
        restarts = count_restart(count_restart(restarts, "failed", unseen_failures), "preempted", unseen - unseen_failures)
        cause: EndCause = "failed" if unseen_failures else "preempted"
        status = with_end(status, (attempt, before), cause, "the JobSet restarted it while the operator was away", now, None)
    update = {"restarts": restarts, "job_set_restarts": after, "job_set_restarts_counted": status.job_set_restarts_counted + counted}
    return status.model_copy(update=update), failures + unseen_failures, told


def _concluded(observed: Observed, status: TrainingRunStatus, world: World, *, refused: bool = False) -> WorldEnd | None:
    end = conclude(observed.endings, world, refused=refused)
    if end is not None and end.cause == "podDeleted" and _is_echo(observed, status, world):
        end = None
    return by_queue(status, world, for_want_of_nodes(observed, world, end) if end is not None else None)


def _is_echo(observed: Observed, status: TrainingRunStatus, world: World) -> bool:
    """Whether the deletions that were seen may be the JobSet's own, of what was left: a process has gone whose end nobody saw.

    So it is where the API server or a watch was away: the pod that ended first is deleted at once, its peers when they have saved.
    """
    known = {ending.process for ending in observed.endings if ending.world == world}
    known |= {pod.process for pod in observed.pods if pod.world == world}
    return status.topology is not None and len(known) < status.topology.hosts


def _with_blame(observed: Observed, status: TrainingRunStatus, world: World, end: WorldEnd) -> TrainingRunStatus:
    """The status with a blame for the node on which a world's end began, if it is to blame."""
    node, spec = blamed_node(observed, world, end), observed.run.spec
    if not node or spec is None or end.at is None:
        return status
    return status.model_copy(update={"placement": with_blame(placement_of(status, spec), world, node, end.at)})


def _count_failures(before: TrainingRunStatus, status: TrainingRunStatus, failures: int) -> TrainingRunStatus:
    """Failures in a row without a new checkpoint. Those of one look with a new checkpoint count as one: which came first is unknown."""
    old = before.checkpoint.step if before.checkpoint is not None else 0
    new = status.checkpoint.step if status.checkpoint is not None else 0
    count = min(failures, 1) if new > old else status.failures_without_checkpoint + failures
    return status.model_copy(update={"failures_without_checkpoint": count})


def _final_step(observed: Observed) -> int | None:
    spec = observed.run.spec
    return spec.trainer.steps if spec is not None and spec.task == "train" else None


def _is_open(status: TrainingRunStatus, world: tuple[int, int]) -> bool:
    entry = entry_of(status, world)
    return entry is not None and entry.ended_at is None
