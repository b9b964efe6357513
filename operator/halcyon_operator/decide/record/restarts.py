"""A restart that a user requests by a new value of the annotation. Pure.

It works like an edit that changes nothing: the trainer is asked for a checkpoint (`save_requests.py`). When a
checkpoint contains all steps that were done when the request was seen, the attempt is stopped (`next/attempts.py`), and
the next one begins with that checkpoint. The longest wait is that of an edit (`edits.py`).

Level-triggered: `status.restart` has the number of the attempt that was present when the request was seen. The write
that records the next attempt's number, for any reason, also marks the request as done. So a restart happens once, even
if the operator is restarted meanwhile. A request that comes while there is no pod to replace is passed over and never
served: a user who resumes a run a week later gets no second restart."""

from datetime import datetime
from typing import Literal

from halcyon_api.ends import EndCause
from halcyon_api.status.requests import MAX_REQUEST_VALUE, RestartOutcome, RestartStatus
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.record.completion import lengthened
from halcyon_operator.decide.record.placement import trains
from halcyon_operator.decide.record.spec_hash import RETIRED
from halcyon_operator.model.decision import Change, Event
from halcyon_operator.model.history import last_cause
from halcyon_operator.model.reasons import ChangeReason
from halcyon_operator.model.untrusted import stamp, text
from halcyon_operator.model.views import JobSetView, Observed


def with_restart(observed: Observed, status: TrainingRunStatus, jobset: JobSetView | None) -> Change:
    """Update the request for a restart.

    Args:
        observed: The observation. A run with an invalid document is not changed, because no attempt can follow.
        status: The run's status, with the newest checkpoint.
        jobset: The JobSet of the present attempt, if there is one.
    """
    value, known = text(observed.run.restart_request, MAX_REQUEST_VALUE), status.restart
    if observed.run.spec is None:
        return Change(status)
    if value and (known is None or known.value != value):
        known = _taken(known, value, status.attempt, observed.now)
    if known is None or not known.waits:
        return Change(status)
    rest = _at_rest(observed, status, jobset)
    if rest:
        message = f"The restart that was asked for ({_shown(known)}) is passed over: the run {rest}"
        return _closed(status, known, "passedOver", "RestartPassedOver", message)
    if _has_only_new_pods(observed, status, jobset):
        message = f"No pod of attempt {status.attempt} is older than the restart that was asked for ({_shown(known)})"
        return _closed(status, known, "restarted", "Restarted", message)
    if status.restart and status.restart.waits:
        return Change(status.but(restart=known))
    waiting = trains(status) and observed.run.spec.task == "train" and jobset and jobset.outcome == "running"
    then = "asking for a checkpoint, from which a new attempt goes on" if waiting else "a new attempt is made at once"
    event = Event(
        "Normal",
        "RestartPending",
        f"A restart was asked for ({_shown(known)}): {then}",
        f"restart/{status.attempt}/{known.value}",
    )
    return Change(status.but(restart=known), (event,))


def with_restart_done(status: TrainingRunStatus, attempt: int) -> Change:
    """The status of a new attempt, which serves a waiting request."""
    known = status.restart
    if known is None or not known.waits:
        return Change(status)
    step = status.resume_step
    message = (
        f"Attempt {attempt} follows as was asked for ({_shown(known)}), "
        f"{f'from step {step} on' if step else 'from the beginning'}"
    )
    return _closed(status, known, "restarted", "Restarted", message)


def passed_over(status: TrainingRunStatus) -> TrainingRunStatus:
    """The status of a run that is done. A waiting request is passed over."""
    known = status.restart
    return _closed(status, known, "passedOver", "", "").status if known and known.waits else status


def restart_clause(status: TrainingRunStatus) -> str:
    """Clause about the request because of which an attempt is stopped."""
    known = status.restart
    if known is None:
        return "a restart was asked for"
    return f"a restart was asked for ({_shown(known)})" + (
        f"; saved at step {known.step}" if known.step is not None else ""
    )


def _taken(known: RestartStatus | None, value: str, attempt: int, now: datetime) -> RestartStatus:
    if known and known.waits:
        return known.but(value=value)  # one restart serves all requests that come before it
    return RestartStatus(value=value, requested_at=stamp(now), attempt=attempt, outcome="waiting")


def _at_rest(observed: Observed, status: TrainingRunStatus, jobset: JobSetView | None) -> str:
    """Clause about a run that has no pod to replace and gets none without a user; empty for other runs."""
    spec = observed.run.spec
    if status.attempt == 0:
        return "has not begun"
    if spec and spec.suspend:
        return "is suspended, and begins with new pods when it is resumed"
    done = jobset and jobset.outcome == "completed" and last_cause(status) != EndCause.ENDED_EARLY
    if (status.holds("Succeeded") or done) and not (spec is not None and lengthened(status, spec)):
        return "is done"
    return ""


def _has_only_new_pods(observed: Observed, status: TrainingRunStatus, jobset: JobSetView | None) -> bool:
    """Whether the recorded attempt has no pod yet, so that all its pods will be newer than the request."""
    if jobset is None:
        return status.job_set_uid is None and not observed.pods
    return (
        jobset.suspended
        and bool(jobset.queue)
        and not observed.pods
        and not jobset.deleting
        and status.attempt_spec_hash != RETIRED
    )


def _closed(
    status: TrainingRunStatus,
    known: RestartStatus,
    outcome: RestartOutcome,
    reason: ChangeReason | Literal[""],
    message: str,
) -> Change:
    events = (Event("Normal", reason, message, f"restart/{known.attempt}/{known.value}/{outcome}"),) if reason else ()
    return Change(status.but(restart=known.but(outcome=outcome)), events)


def _shown(known: RestartStatus) -> str:
    return text(known.value, 64)
