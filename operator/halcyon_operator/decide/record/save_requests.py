"""Requests for checkpoints: from a user (an annotation or an edit), from a node (a notice), or from a run before it
grows. Pure.

Level-triggered: a request stays in the status until a checkpoint serves it. It is sent to process 0 at every reconcile
until the trainer's report contains it; the process accepts the same request only once. A checkpoint serves it if it
contains the step at which the trainer accepted it. So a request survives the end of the operator and of the trainer,
and a lost answer."""

from datetime import datetime, timedelta
from typing import TypeVar

from halcyon_api.post_requests import SaveRequest, request_id
from halcyon_api.status.requests import (
    MAX_NOTICES,
    MAX_REQUEST_VALUE,
    MaintenanceStatus,
    NodeNotice,
    Notice,
    SaveRequestStatus,
)
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.model.decision import Change, Event, SaveAsk
from halcyon_operator.model.history import group_of
from halcyon_operator.model.ownership import first_process, trainer_port
from halcyon_operator.model.untrusted import seconds_between, stamp, text
from halcyon_operator.model.views import JobSetView, NoticeView, Observed, ProcessGroup

SOON = timedelta(minutes=5)
"""Time before a scheduled maintenance when a checkpoint is requested."""
COVERED_SECONDS = 60.0
"""Time after a notice in which further notices request no checkpoint: the machines of a slice get their notices one
after the other.
"""
AnyRequest = TypeVar("AnyRequest", bound=SaveRequestStatus)
_MEANINGS: dict[Notice, str] = {
    "scheduled": "maintenance is scheduled",
    "soon": "maintenance begins soon",
    "window": "the maintenance window has begun",
    "underway": "maintenance is under way",
    "terminating": "the machine is about to end",
    "draining": "the autoscaler takes the node away",
    "cordoned": "the node is closed for new pods",
    "outOfService": "the node is out of service",
}


def with_requests(observed: Observed, status: TrainingRunStatus, jobset: JobSetView | None) -> Change:
    """Update the requests.

    Args:
        observed: The observation.
        status: The run's status, with the newest checkpoint.
        jobset: The JobSet of the present attempt, if there is one.
    """
    asks: list[SaveAsk] = []
    events: list[Event] = []

    def pursued(wanted: AnyRequest, kind: str, what: str) -> AnyRequest:
        """A request that no checkpoint serves yet, updated; it is sent again if the trainer has not accepted it."""
        if wanted.step is not None:
            return wanted
        return _pursue(wanted, request_id(kind, f"{observed.run.uid}/{what}"), observed, status, jobset, asks)

    known, user = _wanted(observed, status), None
    if known is not None:
        user = pursued(known, "user", known.value)
        if user.step is not None and known.step is None:
            message = (
                f"The checkpoint of step {user.step} holds all that was trained when it was asked for "
                f"({text(user.value, 64)})"
            )
            key = f"saved/{request_id('user', f'{observed.run.uid}/{user.value}')}"
            events.append(Event("Normal", "CheckpointSaved", message, key))
    maintenance, noticed = _maintenance(observed, status, jobset)
    events += noticed
    if maintenance is not None and (save := maintenance.save) is not None:
        maintenance = maintenance.but(save=pursued(save, "notice", save.value))
    if (room := _for_growth(status)) is not None:
        pursued(room, "room", room.value)
    edit, restart = status.edit, status.restart
    if edit is not None:
        edit = edit.but(save=pursued(edit.save, "edit", edit.save.value))
    if restart and restart.waits:
        restart = pursued(restart, "restart", f"{restart.attempt}/{restart.requested_at}")
    status = status.but(save_request=user, maintenance=maintenance, edit=edit, restart=restart)
    return Change(status, tuple(events), tuple(asks))


def _wanted(observed: Observed, status: TrainingRunStatus) -> SaveRequestStatus | None:
    """The user's request: the recorded one, or a new one."""
    value, known = text(observed.run.save_request, MAX_REQUEST_VALUE), status.save_request
    if not value or (known and known.value == value):
        return known
    return SaveRequestStatus(value=value, requested_at=stamp(observed.now))


def _for_growth(status: TrainingRunStatus) -> SaveRequestStatus | None:
    """The request when there is room for more slices: the run grows at a checkpoint, and the probe costs money until
    then.
    """
    placement = status.placement
    if placement is None or placement.room_since is None or status.resume_step > (placement.room_step or 0):
        return None
    return SaveRequestStatus(value=f"room {placement.room_since}", requested_at=placement.room_since)


def _pursue(
    wanted: AnyRequest,
    request: str,
    observed: Observed,
    status: TrainingRunStatus,
    jobset: JobSetView | None,
    asks: list[SaveAsk],
) -> AnyRequest:
    """Update a request: whether the trainer has accepted it, and whether a checkpoint serves it.

    Send it if it is not accepted yet.
    """
    newest = status.checkpoint and status.checkpoint.step
    if status.phase in ("Succeeded", "Suspended") and newest is not None:
        return wanted.but(step=newest)  # the run does not train, so the newest checkpoint contains all steps
    group = group_of(status, jobset) if jobset and jobset.outcome == "running" else None
    if group and (report := observed.report_of(group)):
        taken = next((one for one in report.save_requests or () if one.id == request), None)
        if taken is not None:
            wanted = wanted.but(asked_step=taken.step)
        elif report.stage not in ("leaving", "done"):
            asks += _ask(request, observed, group)
    if wanted.asked_step is not None and newest is not None and newest >= wanted.asked_step:
        return wanted.but(step=newest)
    return wanted


def _ask(request: str, observed: Observed, group: ProcessGroup) -> tuple[SaveAsk, ...]:
    pod, spec = first_process(observed.pods, group), observed.run.spec
    if pod is None or spec is None or spec.task != "train" or not pod.save_token:
        return ()
    body = SaveRequest(id=request, run=observed.run.name, attempt=group.attempt, restart=group.restart)
    return (SaveAsk(pod.ip, trainer_port(observed.run), pod.save_token, body),)


def _maintenance(
    observed: Observed, status: TrainingRunStatus, jobset: JobSetView | None
) -> tuple[MaintenanceStatus | None, tuple[Event, ...]]:
    """The notices of the run's nodes, and whether they need a checkpoint."""
    known = status.maintenance
    if jobset is None or jobset.outcome != "running" or not observed.notices:
        return None, ()
    seen = {(one.node, one.notice): one for one in known.notices} if known is not None else {}
    listed = [_listed(notice, observed.now) for notice in observed.notices]
    notices = [
        seen.get((one.node, one.notice), one)
        for one in sorted(listed, key=lambda one: (one.node, one.notice))[:MAX_NOTICES]
    ]
    fresh = [one for one in notices if (one.node, one.notice) not in seen]
    save = known and known.save
    if any(one.notice != "scheduled" for one in fresh) and not _covered(save, observed.now):
        save = SaveRequestStatus(
            value=f"{fresh[0].node} {fresh[0].notice} {stamp(observed.now)}"[:MAX_REQUEST_VALUE],
            requested_at=stamp(observed.now),
        )
    return MaintenanceStatus(notices=notices, save=save), _notice_events(fresh)


def _listed(notice: NoticeView, now: datetime) -> NodeNotice:
    kind: Notice = notice.notice
    if notice.at is not None and notice.at - now <= SOON:
        kind = "soon"
    return NodeNotice(
        node=notice.node, notice=kind, at=None if notice.at is None else stamp(notice.at), seen_at=stamp(now)
    )


def _covered(save: SaveRequestStatus | None, now: datetime) -> bool:
    return save is not None and (save.step is None or seconds_between(save.requested_at, now) < COVERED_SECONDS)


def _notice_events(fresh: list[NodeNotice]) -> tuple[Event, ...]:
    """One event for all new notices."""
    if not fresh:
        return ()
    nodes: dict[Notice, list[str]] = {}
    for one in fresh:
        nodes.setdefault(one.notice, []).append(one.node)
    listed = "; ".join(f"{_MEANINGS[notice]} ({_listing(names)})" for notice, names in nodes.items())
    urgent = any(one.notice != "scheduled" for one in fresh)
    first = fresh[0]
    key = f"notice/{first.node}/{first.notice}/{len(fresh)}/{first.seen_at}"
    then = ": asking for a checkpoint before the pods get the signal to end" if urgent else ""
    return (Event("Warning" if urgent else "Normal", "MaintenanceNotice", f"On nodes of the run {listed}{then}", key),)


def _listing(nodes: list[str]) -> str:
    shown = ", ".join(nodes[:3])
    return shown if len(nodes) <= 3 else f"{shown} and {len(nodes) - 3} more"


def next_due(observed: Observed) -> float | None:
    """Seconds until a scheduled maintenance needs a checkpoint; None if none is scheduled."""
    times = [(notice.at - observed.now - SOON).total_seconds() for notice in observed.notices if notice.at is not None]
    return min((seconds for seconds in times if seconds > 0), default=None)
