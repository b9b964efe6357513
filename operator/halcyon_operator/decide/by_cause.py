"""The next step while an attempt has a JobSet, by the decision table of `recovery`. Pure."""

from __future__ import annotations

from datetime import datetime

from halcyon_api.elastic import usable_slices
from halcyon_api.ends import EndCause, EndReason
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide import edits
from halcyon_operator.decide.bad_nodes import current_avoided, node_to_avoid
from halcyon_operator.decide.growth import grown, shrunk
from halcyon_operator.decide.placement import first_slices, placement_of, smaller
from halcyon_operator.decide.recovery import Rule, decide
from halcyon_operator.decide.recovery_facts import MAX_FENCED_IN_A_ROW, last_cause, last_message, recovery_facts
from halcyon_operator.decide.restart_requests import restart_clause, restart_waits
from halcyon_operator.decide.situation import Situation
from halcyon_operator.decide.steps import Keep, Stall, Step, Stop
from halcyon_operator.model.reasons import StallReason
from halcyon_operator.model.untrusted import seconds_between
from halcyon_operator.model.views import JobSetView


def by_cause(situation: Situation, jobset: JobSetView) -> Step:
    """The step that the decision table gives for an attempt with a JobSet."""
    rule, status, spec = rule_of(situation, jobset), situation.status, situation.spec
    if rule.action != "edited":
        return _step_of(rule, situation, jobset)
    if situation.renewed:
        return renewal(situation)
    why = f"recovery.elastic does not allow {placement_of(status, spec).slices} slices any more"
    return _resize(status, spec, first_slices(status, spec, fresh=True), why, situation.now)


def rule_of(situation: Situation, jobset: JobSetView) -> Rule:
    """The rule of the decision table that matches."""
    observed, status, spec = situation.observed, situation.status, situation.spec
    edited = situation.renewed or placement_of(status, spec).slices not in usable_slices(spec)
    return decide(recovery_facts(observed, status, spec, jobset, situation.now, edited=edited))


def renewal(situation: Situation) -> Stop:
    """The stop for an edit or for a requested restart. If there are both, the message names the edit."""
    status = situation.status
    asked = restart_waits(status) and not situation.edited
    return Stop(EndCause.REQUESTED, restart_clause(status)) if asked else Stop(EndCause.SPEC_CHANGED, edits.why(status))


def _step_of(rule: Rule, situation: Situation, jobset: JobSetView) -> Step:
    """The step that carries out a rule of the decision table."""
    observed, status, spec, now = situation.observed, situation.status, situation.spec, situation.now
    placement, failed = placement_of(status, spec), jobset.outcome != "running"
    avoided = current_avoided(placement.avoided, spec.recovery.bad_nodes, now)
    waited = f"pods have found no node for {seconds_between(placement.waiting_since, now):.0f} s"
    match rule.action:
        case "stop":
            reason = rule.reason or EndReason(last_cause(status).end.reason)
            return Stall(reason, _stop_message(reason, status, spec, observed.run.name))
        case "smaller" if (slices := smaller(observed, status, spec)) is not None:
            return _resize(status, spec, slices, waited, now)
        case "larger" if placement.room_slices is not None:
            return _resize(status, spec, placement.room_slices, "there is room for more slices", now)
        case "pause":
            return Stop(last_cause(status) if failed else EndCause.HELD_BACK, last_message(status))
        case "elsewhere" if (node := node_to_avoid(placement, spec, now)) is not None:
            message = f"avoiding node {node.node}, where the run failed {node.blames} times: {last_message(status)}"
            moved = placement.model_copy(update={"avoided": [*avoided, node], "waiting_since": None})
            return Stop(last_cause(status) if failed else EndCause.MOVED, message, moved)
        case "anywhere":
            nodes = ", ".join(node.node for node in avoided)
            moved = placement.model_copy(update={"avoided": [], "blames": [], "waiting_since": None})
            return Stop(EndCause.MOVED, f"{waited} while avoiding {nodes}: using all nodes again", moved)
        case _:
            return Stop(last_cause(status), last_message(status)) if failed else Keep(jobset)


def _resize(status: TrainingRunStatus, spec: TrainingRunSpec, slices: int, why: str, now: datetime) -> Stop:
    placement, asked = placement_of(status, spec), spec.accelerator.slices
    short = why if slices < placement.slices else "there was room for no more"
    reason = f"{slices} of {asked} slices: {short}" if slices < asked else None
    moved = grown(placement, slices, now) if slices > placement.slices else shrunk(placement, slices)
    moved = moved.model_copy(update={"reason": reason, "waiting_since": None})
    return Stop(EndCause.RESIZED, f"going on with {slices} slices instead of {placement.slices}: {why}", moved)


def _stop_message(reason: StallReason, status: TrainingRunStatus, spec: TrainingRunSpec, run_name: str) -> str:
    """One sentence with the reason why a run stops, and how to continue it."""
    message = last_message(status)
    if reason == "Fenced":
        again = f"{MAX_FENCED_IN_A_ROW} attempts in a row lost the checkpoint root to another writer: {message}"
        return f"{again}; find the other writer, then ask for a restart (kubectl halcyon restart)"
    if reason == "RestartsExhausted":
        return (
            f"{status.failures_without_checkpoint} failures in a row without a new checkpoint, and "
            "recovery.maxRestarts is "
            f"{spec.recovery.max_restarts}; the last: {message}; read `kubectl logs -l halcyon.dev/run={run_name}`, "
            "then edit the "
            "spec, or ask for a restart (kubectl halcyon restart)"
        )
    return message
