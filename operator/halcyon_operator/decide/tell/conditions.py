"""Phase and conditions of a run, computed from one description of its state.

The conditions follow the conventions of kstatus readers (Argo CD, Flux, ``kubectl wait``): `Ready` means that the run
is in the state of its spec, also while `spec.suspend` suspends it. `Reconciling` is true only during a change that
needs no user. `Stalled` is true only if nothing happens until a user changes something. Every type exists from the
first reconcile, so that ``kubectl wait`` finds it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast, get_args

from halcyon_api.counting import percent
from halcyon_api.ends import HELD_REASONS
from halcyon_api.status.goodput import GoodputSeconds
from halcyon_api.status.run_status import Condition, ConditionType, Phase, TrainingRunStatus
from halcyon_operator.model.planned_speed import SLOW, speed_ratio
from halcyon_operator.model.reasons import RunReason, StallReason, StartReason, stall_reason
from halcyon_operator.model.untrusted import stamp, text

MAX_MESSAGE = 2048
_NOTABLE = 0.1
"""Share of the time from which a wait explains why a run is slower than planned."""
_ON_ITS_WAY: frozenset[Phase] = frozenset({"Pending", "Queued", "Starting", "Restarting", "Suspending"})
_AS_WANTED: frozenset[Phase] = frozenset({"Running", "Suspended", "Succeeded"})
EDIT_PENDING = "EditPending"
"""Reason of a run that still trains with its old spec because an edit waits for a checkpoint."""
RESTART_PENDING = "RestartPending"
"""Reason of a run that still trains because a requested restart waits for a checkpoint."""
STUCK_TERMINATING: StartReason = "PodStuckTerminating"
"""Reason of a run that waits for a pod that does not end: see `next/pods.py`."""
NOT_STARTING: StartReason = "PodsNotStarting"
"""Reason of a run that waits for a pod that has a node and does not start: see `tell/pods.py`."""
REFUSED: StartReason = "PodsRefused"
"""Reason of a run whose pods are not made: a quota, a policy or a webhook refuses them, or they name an object that
does not exist.
"""
SILENT: StartReason = "JobSetControllerSilent"
"""Reason of a run whose JobSet is left alone by its controller."""
DEGRADED_REASONS: tuple[str, ...] = (
    *HELD_REASONS,
    STUCK_TERMINATING,
    NOT_STARTING,
    REFUSED,
    SILENT,
    "ImagePullFailed",
    "ContainerConfigInvalid",
    "CreateRefused",
)
_OWN_CONDITION: dict[Phase, ConditionType] = {
    "Queued": "Queued",
    "Running": "Running",
    "Suspended": "Suspended",
    "Succeeded": "Succeeded",
    "Failed": "Failed",
}
"""The condition that is true in a phase."""


@dataclass(frozen=True)
class Description:
    """The state of a run: phase, machine-readable reason, one sentence for the user."""

    phase: Phase
    reason: RunReason
    message: str
    stalled: StallReason | Literal[""] = ""
    """Reason why nothing happens until a user changes something; empty: the run continues without a user."""
    stalled_message: str = ""
    pending: Literal["EditPending", "RestartPending", ""] = ""
    """Reason of a change that waits for a checkpoint while the run trains: `EDIT_PENDING` or `RESTART_PENDING`; empty:
    none waits.
    """


def stalled(reason: StallReason, message: str) -> Description:
    """The description of a run that continues only after a user changes something."""
    return Description("Failed", reason, message, stalled=reason, stalled_message=message)


def with_description(
    status: TrainingRunStatus, description: Description, generation: int, now: datetime
) -> TrainingRunStatus:
    """The status with phase and conditions of a description.

    A condition keeps its transition time while its status is unchanged.
    """
    conditions = [_condition(kind, status, description, generation, now) for kind in get_args(ConditionType)]
    return status.but(phase=description.phase, conditions=conditions, observed_generation=generation)


def recorded_description(status: TrainingRunStatus) -> Description:
    """The description that the status already has."""
    stalled, ready = status.condition("Stalled"), status.condition("Ready")
    reason, message = (cast("RunReason", ready.reason), ready.message) if ready is not None else (status.phase, "")
    if stalled and stalled.status == "True":
        return Description(status.phase, reason, message, stall_reason(stalled.reason), stalled.message)
    return Description(status.phase, reason, message)


def _condition(
    kind: ConditionType, status: TrainingRunStatus, description: Description, generation: int, now: datetime
) -> Condition:
    holds, reason, message = (
        _degraded(status, description)
        if kind == "Degraded"
        else planned(status)
        if kind == "Planned"
        else _truth(kind, description)
    )
    truth = "True" if holds else "False"
    known = status.condition(kind)
    return Condition(
        type=kind,
        status=truth,
        reason=reason,
        message=text(message, MAX_MESSAGE),
        last_transition_time=known.last_transition_time if known and known.status == truth else stamp(now),
        observed_generation=generation,
    )


def _degraded(status: TrainingRunStatus, description: Description) -> tuple[bool, str, str]:
    """Whether a run has fewer slices than its spec sets, waits before its next attempt, or waits for a pod that does
    not start or end.
    """
    if description.reason in DEGRADED_REASONS:
        return True, description.reason, description.message
    why = status.placement and status.placement.reason
    holds = bool(why) and description.phase in ("Starting", "Running", "Restarting")
    return holds, "FewerSlices" if holds else "NotDegraded", why or "" if holds else ""


def planned(status: TrainingRunStatus) -> tuple[bool, str, str]:
    """Whether the step is planned, fits, and is as fast as planned, with reason and message."""
    plan, ratio = status.plan, speed_ratio(status)
    if plan is None:
        return False, "NotPlanned", ""
    if plan.fits is False:
        return False, "DoesNotFit", plan.message
    if plan.failed:
        return False, "PlanFailed", plan.message
    if ratio is not None and ratio < SLOW:
        return (
            False,
            "SlowerThanPlanned",
            f"the run trains at {percent(ratio)} of the planned speed: {_slow_part(status)}",
        )
    return True, "Planned", plan.message


def _slow_part(status: TrainingRunStatus) -> str:
    """What a run that is slower than planned spends its time on, as a clause."""
    seconds = status.goodput.current.seconds if status.goodput is not None else GoodputSeconds()
    waits = {
        "waits for data": seconds.data_wait,
        "waits for saves": seconds.save_blocking,
        "evaluates": seconds.evaluation,
        "audits": seconds.audit,
    }
    longest, whole = max(waits, key=lambda name: waits[name]), seconds.productive_step + sum(waits.values())
    if whole and waits[longest] / whole >= _NOTABLE:
        return f"it {longest} {percent(waits[longest] / whole)} of the time"
    bound = f", which the plan says is bound by {status.plan.bound}" if status.plan and status.plan.bound else ""
    return f"the time is in the steps{bound}; a profile shows where (kubectl halcyon profile)"


def _truth(kind: ConditionType, description: Description) -> tuple[bool, str, str]:
    """Whether a condition holds, with its reason and message."""
    if kind == "Ready":
        if description.stalled:
            return False, description.stalled, description.stalled_message
        return description.phase in _AS_WANTED, description.reason, description.message
    if kind == "Stalled":
        return bool(description.stalled), description.stalled or "NotStalled", description.stalled_message
    if kind == "Reconciling":
        holds = (description.phase in _ON_ITS_WAY or bool(description.pending)) and not description.stalled
        return (
            holds,
            (description.pending or description.reason) if holds else "NothingToDo",
            description.message if holds else "",
        )
    holds = _OWN_CONDITION.get(description.phase) == kind
    return holds, description.reason if holds else f"Not{kind}", description.message if holds else ""
