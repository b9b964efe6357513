"""The facts for the decision table, computed from the observation of a run. Pure."""

from __future__ import annotations

from datetime import datetime

from halcyon_api.ends import EndCause, cause_named
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.backoff import FREE_ENDS_IN_A_ROW, free_ends_in_a_row
from halcyon_operator.decide.bad_nodes import node_to_avoid
from halcyon_operator.decide.checkpoint_status import resume_step
from halcyon_operator.decide.edits import saved
from halcyon_operator.decide.placement import capacity_of, placement_of, trains
from halcyon_operator.decide.recovery import ENDED, FREE, Budget, Cause, Committed, RecoveryFacts
from halcyon_operator.model.history import last_entry
from halcyon_operator.model.views import JobSetView, Observed

MAX_FENCED_IN_A_ROW = 3

_STARTED_AGAIN: frozenset[EndCause] = frozenset(ENDED) - {EndCause.FENCED}
"""Causes of ends after which another process group follows without a user."""


def recovery_facts(
    observed: Observed,
    status: TrainingRunStatus,
    spec: TrainingRunSpec,
    jobset: JobSetView,
    now: datetime,
    *,
    edited: bool = False,
) -> RecoveryFacts:
    """The facts about a run whose present attempt has a JobSet."""
    failed = jobset.outcome != "running"  # one that has completed is seen here only if it ended early
    cause: Cause = last_cause(status) if failed else _started_again_after(status)
    capacity = capacity_of(observed, status, spec, now)
    idle = failed or not trains(status)
    committed: Committed = _grown(status, spec) if capacity == "more" else _committed(status, cause)
    if edited and cause == "none":
        committed = "yes" if saved(observed, status, now) else "no"
    return RecoveryFacts(
        cause=cause,
        committed=committed,
        budget=_budget(status, spec, cause) if failed or cause in FREE else "left",
        node="blamed" if idle and node_to_avoid(placement_of(status, spec), spec, now) is not None else "clear",
        capacity=capacity,
        edit="waits" if edited else "none",
    )


def last_cause(status: TrainingRunStatus) -> EndCause:
    """Cause of the end of the present attempt's newest process group."""
    entry = last_entry(status, status.attempt)
    return cause_named(entry.cause if entry is not None else None)


def ended_cause(status: TrainingRunStatus) -> EndCause:
    """Cause of the newest end in the history."""
    return next((cause_named(entry.cause) for entry in reversed(status.history) if entry.cause), EndCause.SPEC_CHANGED)


def last_message(status: TrainingRunStatus) -> str:
    """Message of the newest end in the history."""
    ended = next((entry for entry in reversed(status.history) if entry.cause), None)
    return (ended.message if ended is not None else None) or "no pod was seen to end"


def _started_again_after(status: TrainingRunStatus) -> Cause:
    """Cause of the end before the present process group, until that one trains."""
    cause = ended_cause(status) if any(entry.cause for entry in status.history) else "none"
    return cause if cause in _STARTED_AGAIN and not trains(status) else "none"


def _grown(status: TrainingRunStatus, spec: TrainingRunSpec) -> Committed:
    """Whether a checkpoint was committed after the room for more slices was found."""
    return "yes" if resume_step(status) > (placement_of(status, spec).room_step or 0) else "no"


def _committed(status: TrainingRunStatus, cause: Cause) -> Committed:
    """Whether the process group that ended had committed a checkpoint; if it was fenced, whether it had done a step."""
    if cause == EndCause.FENCED:
        return "no" if _fenced_in_a_row(status) else "yes"
    ended = next((entry for entry in reversed(status.history) if entry.cause), None)
    committed = ended is not None and ended.from_step is not None and resume_step(status) > ended.from_step
    return "yes" if committed else "no"


def _budget(status: TrainingRunStatus, spec: TrainingRunSpec, cause: Cause) -> Budget:
    if cause == EndCause.FENCED:
        spent = _fenced_in_a_row(status) >= MAX_FENCED_IN_A_ROW
    elif cause in FREE:
        # Only for the present attempt: after a pause the next attempt is allowed.
        ended = next((entry for entry in reversed(status.history) if entry.cause), None)
        spent = (
            ended is not None and ended.attempt == status.attempt and free_ends_in_a_row(status) >= FREE_ENDS_IN_A_ROW
        )
    else:
        spent = status.failures_without_checkpoint > spec.recovery.max_restarts
    return "spent" if spent else "left"


def _fenced_in_a_row(status: TrainingRunStatus) -> int:
    """Number of newest process groups in a row that were fenced before they did a step."""
    count = 0
    for entry in reversed(status.history):
        moved = entry.to_step is not None and entry.from_step is not None and entry.to_step > entry.from_step
        if entry.cause != EndCause.FENCED or moved:
            break
        count += 1
    return count
