"""The centre of the operator: computes a decision from an observation of a run and the time. Pure, and defined for
every observation.

Level-triggered: all state between two reconciles is in the cluster, so the operator may be killed at any moment. A
reconcile first updates the status (`record`), then chooses the next step and converts it to a decision
(`next/attempts`, `next/carry_out`), and describes the run in its conditions (`tell`). A `Change` is passed from step to
step.
"""

from dataclasses import replace
from datetime import datetime

from halcyon_api import names
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.next import attempts, pods, steps
from halcyon_operator.decide.next.budget import until_budget, within_budget
from halcyon_operator.decide.next.carry_out import LATER_SECONDS, SOON_SECONDS, carry_out, later
from halcyon_operator.decide.next.dispatch import dispatch
from halcyon_operator.decide.next.fallback import jobsets_to_suspend
from halcyon_operator.decide.next.guards import with_guards
from halcyon_operator.decide.next.permissions import permitted
from halcyon_operator.decide.next.placement import plan_probe, probe_holds_room
from halcyon_operator.decide.next.steps import Situation
from halcyon_operator.decide.record.checkpoint import with_checkpoint
from halcyon_operator.decide.record.edits import with_edits
from halcyon_operator.decide.record.follow import follow
from halcyon_operator.decide.record.goodput import account
from halcyon_operator.decide.record.placement import trains, with_room
from halcyon_operator.decide.record.plan import plan_hash, with_plan
from halcyon_operator.decide.record.queue import boost_due, with_queue
from halcyon_operator.decide.record.restarts import with_restart
from halcyon_operator.decide.record.save_requests import next_due, with_requests
from halcyon_operator.decide.record.spec_hash import attempt_spec_hash
from halcyon_operator.decide.record.spending import spending
from halcyon_operator.decide.record.status_writes import status_to_write
from halcyon_operator.decide.tell import events
from halcyon_operator.decide.tell.conditions import Description, recorded_description, stalled, with_description
from halcyon_operator.decide.tell.describe import describe_attempt
from halcyon_operator.decide.tell.queue import queue_changed
from halcyon_operator.model.decision import Change, Decision, Deletion
from halcyon_operator.model.views import HeadPending, JobSetView, Observed


def reconcile(observed: Observed, now: datetime) -> Decision:
    """The decision about a run now."""
    if observed.run.deleting:
        # Owner references delete all objects of the run; there is nothing outside the cluster to clean up.
        return Decision()
    observed = replace(observed, now=now, run=permitted(observed.run, observed.settings))
    if (spec := observed.run.spec) is not None and spec.managed_by and (queue := spec.scheduling.queue) is not None:
        return dispatch(observed, spec, queue.name)
    spent = spending(observed)
    observed = within_budget(observed, spent)
    if isinstance(observed.head, HeadPending):
        return _reading_head(observed)
    observed = pods.with_held_ends(observed)
    jobset = attempts.current_jobset(observed)
    wanted_hash = attempt_spec_hash(observed.run.spec) if observed.run.spec is not None else ""
    change = _updated(observed, jobset, wanted_hash)
    change = change.updated(change.status.but(spent=spent))
    if change.refusal:
        observed = replace(observed, run=replace(observed.run, spec=None, problems=(change.refusal,)))
    change = change.then(with_restart(observed, change.status, jobset))
    change = change.then(with_requests(observed, change.status, jobset))
    decision = pods.with_stuck_pods(_next(observed, change, wanted_hash), observed)
    return decision if decision.status is None else _completed(decision, observed, change, jobset)


def _updated(observed: Observed, jobset: JobSetView | None, wanted_hash: str) -> Change:
    """The status, updated from checkpoints, queue, JobSet, pods and spec."""
    change = Change(with_checkpoint(observed), events.checkpoint_failing(observed.report))
    change = change.updated(with_queue(observed, change.status, jobset))
    change = change.updated(with_plan(observed, change.status))
    if jobset is not None:
        change = change.then(follow(observed, change.status, jobset))
        if observed.run.spec is not None:
            change = change.updated(with_room(observed, change.status, observed.run.spec, jobset))
    return change.then(with_edits(observed, change.status, jobset, wanted_hash))


def _next(observed: Observed, change: Change, wanted_hash: str) -> Decision:
    """The decision for the next step of the run."""
    status, spec = change.status, observed.run.spec
    if spec is None:
        return _invalid(observed, status)
    situation = Situation(observed, status, spec, attempts.current_jobset(observed), wanted_hash, change.retry)
    step = attempts.next_step(situation)
    decision = _without_planner(_with_probe(carry_out(step, situation), step, observed), step, observed)
    decision = pods.with_held_pods(decision, observed, step, situation.jobset)
    if isinstance(step, steps.Keep):
        gone = pods.jobs_to_replace(observed, decision.status or status, step.jobset)
        decision = replace(decision, delete=decision.delete + gone)
    return with_guards(decision, observed, step)


def _completed(decision: Decision, observed: Observed, change: Change, jobset: JobSetView | None) -> Decision:
    """The decision with all events and requests, the status only if it needs a write, and the time of the next
    reconcile.
    """
    status, before = decision.status or change.status, observed.run.status
    waits_for_save = jobset is not None and (status.edit is not None or status.restart_waits)
    written = status_to_write(observed, account(observed, status))
    if written is not None and any(deletion.resource_version for deletion in decision.delete):
        # The write changes the run's resource version, so a deletion with the observed version waits for the next
        # reconcile.
        decision = replace(decision, delete=(), events=(), requeue_after=0.0)
    found = change.events + decision.events
    if written is not None:
        found += (
            *events.state_changed(before, written),
            *events.placement_changed(before, written),
            *queue_changed(before, written, observed.now),
            *events.budget_nearly_spent(before, written),
        )
    again = (
        decision.requeue_after,
        next_due(observed),
        until_budget(observed),
        SOON_SECONDS if change.asks or waits_for_save else None,
    )
    soonest = min((seconds for seconds in again if seconds is not None), default=None)
    boost = boost_due(observed, written or before, jobset)
    return replace(decision, status=written, events=found, asks=change.asks, boost=boost, requeue_after=soonest)


def _reading_head(observed: Observed) -> Decision:
    """Show that the run was seen.

    The next step needs the checkpoints in the root; the answer of its store starts the next reconcile.
    """
    run = observed.run
    if run.status.conditions:
        return Decision(requeue_after=LATER_SECONDS)
    message = "reading the checkpoint root for a checkpoint to continue from"
    description = Description("Pending", "ReadingCheckpointRoot", message)
    status = with_description(run.status, description, run.generation, observed.now)
    return Decision(status_to_write(observed, status), requeue_after=LATER_SECONDS)


def _without_planner(decision: Decision, step: steps.Step, observed: Observed) -> Decision:
    """The decision, with the deletion of a planning pod that nobody waits for, or that plans another spec."""
    planner, run = observed.planner, observed.run
    if planner is None or run.spec is None or planner.jobset.deleting:
        return decision
    own = (planner.jobset.owner_uid, planner.jobset.name) == (run.uid, names.plan_name(run.name))
    if not own or (isinstance(step, steps.MakePlan) and planner.hash == plan_hash(run.spec)):
        return decision
    gone = Deletion("JobSet", planner.jobset.name, planner.jobset.uid)
    return replace(decision, delete=(*decision.delete, gone))


def _with_probe(decision: Decision, step: steps.Step, observed: Observed) -> Decision:
    """The decision, with the creation or deletion of the probe for more slices."""
    if decision.status is None:
        return decision
    placement, made = decision.status.placement, isinstance(step, steps.Keep)
    spec = None if observed.run.spec and observed.run.spec.suspend else observed.run.spec
    holding = (
        spec is not None
        and placement is not None
        and probe_holds_room(placement, observed.now, made=made, trains=trains(decision.status))
    )
    create, delete = plan_probe(observed, decision.status, spec if made else None, holding=holding)
    return replace(decision, create=decision.create + create, delete=decision.delete + delete)


def _invalid(observed: Observed, status: TrainingRunStatus) -> Decision:
    """The decision for an invalid document: no new attempt is created from it, but a running attempt continues."""
    message = "; ".join(observed.run.problems)
    if status.phase == "Succeeded":
        return Decision(with_description(status, recorded_description(status), observed.run.generation, observed.now))
    jobset = attempts.current_jobset(observed)
    if jobset is None or jobset.outcome != "running":
        description = stalled("InvalidSpec", message)
    else:
        message += f"; attempt {status.attempt} goes on as it was"
        at_work = describe_attempt(observed, status, jobset)
        description = replace(at_work, stalled="InvalidSpec", stalled_message=message, pending="")
    status = with_description(status, description, observed.run.generation, observed.now)
    return Decision(status, jobsets_to_suspend(observed), requeue_after=later(observed))
