"""The next step while an attempt has a JobSet: its facts, and the step by the decision table of `recovery`. Pure."""

from halcyon_api.counting import counted
from halcyon_api.elastic import usable_slices
from halcyon_api.ends import EndCause, EndReason
from halcyon_api.status.run_status import AvoidedNode, PlacementStatus, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.next import bad_nodes
from halcyon_operator.decide.next.backoff import pauses
from halcyon_operator.decide.next.guards import has_left
from halcyon_operator.decide.next.placement import (
    capacity_of,
    first_slices,
    grown,
    next_row,
    shrunk,
    smaller,
    waiting_since,
)
from halcyon_operator.decide.next.recovery import ENDED, FREE, Cause, RecoveryFacts, Rule, decide
from halcyon_operator.decide.next.steps import Keep, Situation, Stall, Step, Stop
from halcyon_operator.decide.record.edits import saved
from halcyon_operator.decide.record.placement import trains
from halcyon_operator.decide.record.restarts import restart_clause
from halcyon_operator.decide.tell.describe import edit_clause
from halcyon_operator.model.history import ended_cause, last_cause, last_end, last_message
from halcyon_operator.model.reasons import StallReason
from halcyon_operator.model.untrusted import seconds_between
from halcyon_operator.model.views import JobSetView

MAX_FENCED_IN_A_ROW = 3
_STARTED_AGAIN: frozenset[EndCause] = frozenset(ENDED) - {EndCause.FENCED}
"""Causes of ends after which another process group follows without a user."""


def by_cause(situation: Situation, jobset: JobSetView) -> Step:
    """The step that the decision table gives for an attempt with a JobSet."""
    rule = decide(recovery_facts(situation, jobset))
    if rule.action != "edited":
        return _step_of(rule, situation, jobset)
    if situation.renewed:
        return renewal(situation)
    why = f"recovery.elastic does not allow {situation.placement.slices} slices any more"
    return _resize(situation, first_slices(situation.status, situation.spec, fresh=True), why)


def renewal(situation: Situation) -> Stop:
    """The stop for an edit or for a requested restart. If there are both, the message names the edit."""
    status = situation.status
    if status.restart_waits and not situation.edited:
        return Stop(EndCause.REQUESTED, restart_clause(status))
    return Stop(EndCause.SPEC_CHANGED, edit_clause(status))


def _step_of(rule: Rule, situation: Situation, jobset: JobSetView) -> Step:
    """The step that carries out a rule of the decision table."""
    observed, status, spec, now = situation.observed, situation.status, situation.spec, situation.observed.now
    placement, failed = situation.placement, jobset.outcome != "running"
    avoided = bad_nodes.current_avoided(placement.avoided, spec.recovery.bad_nodes, now)
    waited = f"pods have found no node for {seconds_between(placement.waiting_since, now):.0f} s"
    match rule.action:
        case "stop":
            reason = rule.reason or EndReason(last_cause(status).end.reason)
            return Stall(reason, _stop_message(reason, situation))
        case "smaller" if (slices := smaller(observed, status, spec)) is not None:
            return _resize(situation, slices, waited)
        case "row":
            row, seconds = (
                next_row(observed, status, placement),
                seconds_between(waiting_since(observed, status, spec), now),
            )
            waited = f"no quota or no nodes for {seconds:.0f} s"
            return Stop(*_to_row(situation, row, waited), shrunk(placement, _slices_in(situation, row), row))
        case "larger" if (row := placement.room_row) is not None and row < len(observed.run.rows):
            moved = grown(placement, _slices_in(situation, row), now, row)
            return Stop(*_to_row(situation, row, "there is room"), moved)
        case "larger" if placement.room_slices is not None:
            return _resize(situation, placement.room_slices, "there is room for more slices")
        case "pause":
            return Stop(last_cause(status) if failed else EndCause.HELD_BACK, last_message(status))
        case "elsewhere" if (node := bad_nodes.node_to_avoid(placement, spec, now)) is not None:
            last = "" if trains(status) else f": {last_message(status)}"
            message = f"avoiding node {node.node}, {_why(node, placement)}{last}"
            others = bad_nodes.others_to_avoid(placement, node, spec.recovery.bad_nodes, now)
            alone = jobset.guarded and not failed and not bad_nodes.only_rejects(placement, node.node)
            node = node.but(attempt=status.attempt if alone else None)
            moved = placement.but(avoided=[*others, node], waiting_since=None)
            if alone:
                return Keep(jobset, moved)
            return Stop(last_cause(status) if failed else EndCause.MOVED, message, moved)
        case "anywhere":
            nodes = ", ".join(node.node for node in avoided)
            # A slow node is better than no node, also next time.
            slow = [one.but(slow=0) for one in placement.blames if one.slow is not None]
            moved = placement.but(avoided=[], blames=slow, waiting_since=None)
            if not failed and all(one.attempt == status.attempt for one in avoided):
                return Keep(jobset, moved)  # the guards go
            return Stop(EndCause.MOVED, f"{waited} while avoiding {nodes}: using all nodes again", moved)
        case _:
            return Stop(last_cause(status), last_message(status)) if failed else Keep(jobset)


def _slices_in(situation: Situation, row: int) -> int:
    return situation.observed.run.rows[row].accelerator.slices


def _to_row(situation: Situation, row: int, why: str) -> tuple[EndCause, str]:
    """Cause and message of a stop after which the run goes on in another row of hardware."""
    there = situation.observed.run.rows[row].accelerator
    name = f"place.otherwise[{row - 1}]" if row else "accelerator"
    hardware = f"{counted(there.slices, 'slice')} of {there.type} {there.topology}, {there.provisioning}"
    return EndCause.MOVED, f"going on with {name} ({hardware}): {why}"


def _why(node: AvoidedNode, placement: PlacementStatus) -> str:
    found = {blame.corrupted for blame in placement.blames if blame.node == node.node}
    if True in found:
        return "which computed wrong numbers"
    if False in found:
        return "which may compute wrong numbers"
    if bad_nodes.only_rejects(placement, node.node):
        return f"which rejected pods {counted(node.blames, 'time')}"
    if bad_nodes.found_slow(placement, node.node):
        return "whose process was slower than the others"
    return f"where the run failed {counted(node.blames, 'time')}"


def _resize(situation: Situation, slices: int, why: str) -> Stop:
    placement, asked = situation.placement, situation.spec.accelerator.slices
    short = why if slices < placement.slices else "there was room for no more"
    reason = f"{slices} of {asked} slices: {short}" if slices < asked else None
    moved = grown(placement, slices, situation.observed.now) if slices > placement.slices else shrunk(placement, slices)
    moved = moved.but(reason=reason, waiting_since=None)
    return Stop(EndCause.RESIZED, f"going on with {slices} slices instead of {placement.slices}: {why}", moved)


def _stop_message(reason: StallReason, situation: Situation) -> str:
    """One sentence with the reason why a run stops, and how to continue it."""
    status, run, message = situation.status, situation.observed.run, last_message(situation.status)
    if reason == "Fenced":
        again = f"{MAX_FENCED_IN_A_ROW} attempts in a row lost the checkpoint root to another writer: {message}"
        return f"{again}; find the other writer, then {run.restart}"
    if reason == "RestartsExhausted":
        return (
            f"{status.failures_without_checkpoint} failures in a row without a new checkpoint, and "
            f"recovery.maxRestarts is {situation.spec.recovery.max_restarts}; the last: {message}; read {run.log}, "
            f"then edit the spec, or {run.restart}"
        )
    return message


def recovery_facts(situation: Situation, jobset: JobSetView) -> RecoveryFacts:
    """The facts about a run whose present attempt has a JobSet."""
    observed, status, spec, now = situation.observed, situation.status, situation.spec, situation.observed.now
    edited = situation.renewed or situation.placement.slices not in usable_slices(spec)
    failed = jobset.outcome != "running"  # one that has completed is seen here only if it ended early
    left = has_left(observed, status)
    going_on: Cause = EndCause.FAILED if left else _started_again_after(status)
    cause = last_cause(status) if failed else going_on
    capacity = capacity_of(observed, status, spec)
    idle, node = failed or left or not trains(status), bad_nodes.node_to_avoid(situation.placement, spec, now)
    slow = bad_nodes.found_slow(situation.placement, node.node) if node is not None and not idle else None
    if edited and cause == "none":
        committed = saved(observed, status)
    elif slow is not None:
        committed = status.resume_step >= slow
    elif capacity == "more":
        committed = status.resume_step > (situation.placement.room_step or 0)
    else:
        committed = _committed(status, cause)
    return RecoveryFacts(
        cause=cause,
        committed="yes" if committed else "no",
        budget="spent" if (failed or cause in FREE) and _spent(status, spec, cause) else "left",
        node="slow" if slow is not None else "blamed" if idle and node is not None else "clear",
        capacity=capacity,
        edit="waits" if edited else "none",
    )


def _started_again_after(status: TrainingRunStatus) -> Cause:
    """Cause of the end before the present process group, until that one trains."""
    cause = ended_cause(status) if any(entry.cause for entry in status.history) else "none"
    return cause if cause in _STARTED_AGAIN and not trains(status) else "none"


def _committed(status: TrainingRunStatus, cause: Cause) -> bool:
    """Whether the process group that ended had committed a checkpoint; if it was fenced, whether it had done a step."""
    if cause == EndCause.FENCED:
        return not _fenced_in_a_row(status)
    ended = last_end(status)
    return ended is not None and ended.from_step is not None and status.resume_step > ended.from_step


def _spent(status: TrainingRunStatus, spec: TrainingRunSpec, cause: Cause) -> bool:
    """Whether another end with this cause is not allowed."""
    if cause == EndCause.FENCED:
        return _fenced_in_a_row(status) >= MAX_FENCED_IN_A_ROW
    if cause != "none" and cause in FREE:
        # Only for the present attempt: after a pause the next attempt is allowed.
        ended = last_end(status)
        present = ended is not None and ended.attempt == status.attempt
        return present and pauses(status, cause) > 0
    return status.failures_without_checkpoint > spec.recovery.max_restarts


def _fenced_in_a_row(status: TrainingRunStatus) -> int:
    """Number of newest process groups in a row that were fenced before they did a step."""
    count = 0
    for entry in reversed(status.history):
        moved = entry.to_step is not None and entry.from_step is not None and entry.to_step > entry.from_step
        if entry.cause != EndCause.FENCED or moved:
            break
        count += 1
    return count
