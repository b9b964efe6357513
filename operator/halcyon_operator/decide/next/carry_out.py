"""Converts the next step of a run to the decision: status, plans, deletions, events, time of the next reconcile.

Pure.
"""

from dataclasses import replace
from datetime import datetime

from halcyon_api import names
from halcyon_api.elastic import on_slices
from halcyon_api.ends import EndCause, cause_named
from halcyon_api.mesh import run_mesh
from halcyon_api.status.run_status import TopologyStatus, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.next import steps
from halcyon_operator.decide.next.bad_nodes import only_rejects
from halcyon_operator.decide.next.placement import in_first_row, next_placement
from halcyon_operator.decide.next.steps import Situation
from halcyon_operator.decide.record.completion import final_step, last_progress
from halcyon_operator.decide.record.edits import with_edits_in_force
from halcyon_operator.decide.record.follow import count_next_attempt
from halcyon_operator.decide.record.history import with_end
from halcyon_operator.decide.record.placement import placement_of
from halcyon_operator.decide.record.plan import plan_hash
from halcyon_operator.decide.record.restarts import passed_over, with_restart_done
from halcyon_operator.decide.record.spec_hash import RETIRED
from halcyon_operator.decide.tell import events
from halcyon_operator.decide.tell.conditions import Description, recorded_description, stalled, with_description
from halcyon_operator.decide.tell.describe import describe_attempt, describe_transition, done_sentence
from halcyon_operator.model.decision import Change, ConfigMapPlan, Decision, Deletion, JobSetPlan, Plan, PlannerPlan
from halcyon_operator.model.endings import GroupEnd
from halcyon_operator.model.history import last_entry, present_group
from halcyon_operator.model.ownership import highest_own, own_config_map, own_jobsets
from halcyon_operator.model.untrusted import moment, seconds_between, stamp
from halcyon_operator.model.views import JobSetView, Observed, RunView
from halcyon_operator.model.workload import MAX_WORKLOAD_AGE_SECONDS

SOON_SECONDS = 2.0
"""Seconds until the next reconcile of a run that changes soon, if no event comes before."""
LATER_SECONDS = 20.0
"""Seconds until the next reconcile of a run that waits for something outside the cluster."""


def carry_out(step: steps.Step, situation: Situation) -> Decision:
    """The decision that carries out a step."""
    observed, status, spec, now = situation.observed, situation.status, situation.spec, situation.observed.now
    wanted_hash = situation.wanted_hash
    run = observed.run

    def decided(status: TrainingRunStatus, description: Description, after: float | None = SOON_SECONDS) -> Decision:
        return Decision(with_description(status, description, run.generation, now), requeue_after=after)

    # A process group whose JobSet was deleted before an end was seen.
    message = f"JobSet {status.job_set_name} was deleted"
    vanished = with_end(status, present_group(status), EndCause.JOB_SET_DELETED, message, now, None)
    match step:
        case steps.Keep(jobset, placement):
            status = _kept(status, run, spec, wanted_hash)
            status = status.but(placement=placement or status.placement)
            description = describe_attempt(observed, status, jobset)
            interval = max(float(spec.telemetry.status_interval_seconds), observed.pace_seconds)
            if description.phase == "Queued":
                interval = max(MAX_WORKLOAD_AGE_SECONDS, observed.pace_seconds)
            # An edit that waits makes a new attempt before these pods could start.
            lost = observed.config_map_lost and status.edit is None
            if lost and observed.create_refusal:
                description = Description(description.phase, "CreateRefused", observed.create_refusal)
            again = interval if description.phase == "Running" else _soon(status, interval, now)
            decision = decided(status, description, again)
            if not lost:
                return decision
            config_map = ConfigMapPlan(run, status.attempt, _attempt_spec(observed, status, spec))
            return replace(decision, create=(config_map,), events=(events.config_map_lost(status),))
        case steps.Finish(jobset):
            return _finish(observed, vanished, spec, jobset)
        case steps.Finished():
            return _finished(decided(status, recorded_description(status), None), observed, spec)
        case steps.Stop(cause, message, placement):
            group = present_group(status)
            status = with_end(status, group, cause, message, now, None)
            evicted = cause == EndCause.QUEUE_EVICTED
            ended = events.ended(status, group, GroupEnd(cause, message), restarting=True) if evicted else ()
            moved = placement or status.placement
            if placement is None and (cause.end.budget == "free" or cause == EndCause.SUSPENDED):
                moved = in_first_row(observed, moved)
            status = status.but(attempt_spec_hash=RETIRED, placement=moved)
            if cause.end.by_user:
                status = status.but(failures_without_checkpoint=0)
            if cause == EndCause.SUSPENDED:
                status = status.but(edit=None)
            if (highest := highest_own(observed)) > status.attempt:
                # The number of an attempt is never used twice, even if the status does not have it.
                status = status.but(root_attempt=max(status.root_attempt, highest))
            description = describe_transition(status, spec, f"stopping attempt {status.attempt}: {message}")
            return replace(decided(status, description), delete=all_jobsets(observed), events=ended)
        case steps.Wait(message):
            return decided(vanished, describe_transition(status, spec, message))
        case steps.Await(message):
            return decided(status, Description("Pending", "AwaitsRun", message), later(observed))
        case steps.HoldBack(reason, message, seconds):
            return decided(vanished, Description("Restarting", reason, message), max(1.0, seconds))
        case steps.DiscardConfigMap():
            description = describe_transition(status, spec, "removing the last attempt's ConfigMap")
            found = own_config_map(observed)
            gone = (Deletion("ConfigMap", found.name, found.uid),) if found and not found.deleting else ()
            return replace(decided(vanished, description), delete=gone)
        case steps.NewAttempt(attempt, pardon):
            change = Change(_numbered(vanished, spec, run.name, attempt, wanted_hash, pardon, now))
            change = change.then(with_edits_in_force(observed, change.status, attempt))
            changed = change.status.but(defaults=run.defaults or change.status.defaults)
            change = change.then(Change(changed, events.defaults_taken(run.defaults, attempt)))
            change = change.then(with_restart_done(change.status, attempt))
            description = describe_transition(change.status, spec, f"attempt {attempt} is on record")
            return replace(decided(change.status, description, 0.0), events=change.events)
        case steps.Create():
            description = describe_transition(status, spec, f"creating attempt {status.attempt}")
            if observed.create_refusal:
                description = Description(description.phase, "CreateRefused", observed.create_refusal)
            return replace(decided(status, description), create=_objects(observed, status, spec))
        case steps.MakePlan():
            planner = observed.planner
            said = "compiling the step in a pod without accelerators, to see whether it fits and what it takes"
            if planner and planner.pod and planner.pod.waiting_message:
                said += f"; its pod waits: {planner.pod.waiting_message}"
            made = (PlannerPlan(run, spec, observed.settings, plan_hash(spec)),) if planner is None else ()
            if observed.create_refusal:
                said += f"; {observed.create_refusal}"
            return replace(decided(vanished, Description("Pending", "Planning", said)), create=made)
        case steps.Rest():
            at = f" at step {status.resume_step}" if status.resume_step else ""
            description = Description("Suspended", "Suspended", f"suspended{at}; set spec.suspend: false to go on")
            if run.budget_spent:
                message = f"{run.budget_spent}; suspended{at}; raise spec.budget to go on"
                description = Description("Suspended", "BudgetSpent", message)
            return decided(vanished, description, None)
        case steps.Stall(reason, message):
            return decided(vanished, stalled(reason, message), later(observed))
        case steps.StayStalled():
            return decided(status, recorded_description(status), None)


def later(observed: Observed) -> float:
    """Seconds until the next reconcile of a run that waits for another run, or for something outside the cluster."""
    return max(LATER_SECONDS, observed.pace_seconds)


def _soon(status: TrainingRunStatus, interval: float, now: datetime) -> float:
    """Seconds until the next reconcile of a starting process group: a tenth of its age.

    Its events and first report start one at once.
    """
    entry = last_entry(status, status.attempt)
    waited = seconds_between(entry.started_at, now) if entry is not None else 0.0
    return min(interval, max(SOON_SECONDS, waited / 10))


def _kept(status: TrainingRunStatus, run: RunView, spec: TrainingRunSpec, wanted: str) -> TrainingRunStatus:
    """The status of an attempt that continues.

    While an edit waits, the status keeps the state that the attempt was created from.
    """
    if status.edit is not None:
        return status
    in_force = dict(run.fields) if status.in_force is None else status.in_force
    topology = _topology(spec, placement_of(status, spec).slices)
    defaults = run.defaults or status.defaults
    return status.but(attempt_spec_hash=wanted, in_force=in_force, topology=topology, defaults=defaults)


def _numbered(
    status: TrainingRunStatus,
    spec: TrainingRunSpec,
    run_name: str,
    attempt: int,
    wanted: str,
    pardon: bool,
    now: datetime,
) -> TrainingRunStatus:
    placement = next_placement(status, spec, now, fresh=pardon)
    matters = placement.avoided or placement.blames or spec.place is not None or spec.recovery.elastic is not None
    before = last_entry(status, status.attempt)
    if status.job_set_uid is not None and before is not None:
        status = status.but(restarts=count_next_attempt(status, cause_named(before.cause)))
    return status.but(
        attempt=attempt,
        attempt_spec_hash=wanted,
        job_set_name=names.jobset_name(run_name, attempt),
        job_set_uid=None,
        job_set_restarts=0,
        job_set_restarts_counted=0,
        topology=_topology(spec, placement.slices),
        placement=placement if matters else None,
        failures_without_checkpoint=0 if pardon else status.failures_without_checkpoint,
        finished_at=None,
    )


def _objects(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> tuple[Plan, ...]:
    remaining = max(0, spec.recovery.max_restarts - status.failures_without_checkpoint)
    placement = placement_of(status, spec)
    spec = _attempt_spec(observed, status, spec)
    run, attempt = observed.run, status.attempt
    jobset = JobSetPlan(
        run,
        spec,
        observed.settings,
        attempt,
        status.resume_step,
        remaining,
        tuple(node.node for node in placement.avoided if not only_rejects(placement, node.node)),
        observed.fresh_token,
        tuple(node.node for node in placement.avoided if only_rejects(placement, node.node)),
    )
    return (jobset,) if observed.config_map is not None else (ConfigMapPlan(run, attempt, spec), jobset)


def _attempt_spec(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> TrainingRunSpec:
    """The spec on the attempt's number of slices, with the root of the run that it begins from."""
    spec = on_slices(spec, placement_of(status, spec).slices)
    if spec.origin and spec.origin.root is None and observed.origin_root is not None:
        spec = spec.but(origin=spec.origin.but(root=observed.origin_root))
    return spec


def _finish(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, jobset: JobSetView | None
) -> Decision:
    end = (jobset and jobset.finished_at) or observed.now
    last, progress = last_progress(observed, status).but(eta_seconds=None), status.progress
    if spec.task in ("evaluate", "replay"):
        progress = last
    if spec.task == "train":
        step, steps = final_step(observed, status, spec), spec.trainer.steps
        early = step < steps
        tokens = last.tokens if early else spec.trainer.tokens
        progress = last.but(step=step, steps=steps, tokens=tokens, stopped_early=early or None)
    status = passed_over(status).but(
        finished_at=status.finished_at or stamp(end),
        topology=status.topology or _topology(spec, spec.accelerator.slices),
        # A run whose root was already finished has no recorded fields yet. They are needed to find a later edit with
        # more steps.
        in_force=dict(observed.run.fields) if status.in_force is None else status.in_force,
        progress=progress,
    )
    description = Description("Succeeded", "Succeeded", done_sentence(status, spec))
    status = with_description(status, description, observed.run.generation, observed.now)
    return _finished(Decision(status), observed, spec)


def _finished(decision: Decision, observed: Observed, spec: TrainingRunSpec) -> Decision:
    """The decision for a finished run.

    Run and pods (for their logs) stay until the time to live is over. Checkpoints always stay.
    """
    if decision.status is None or spec.ttl_seconds_after_finished is None:
        return decision
    finished = moment(decision.status.finished_at) or observed.now
    left = spec.ttl_seconds_after_finished - (observed.now - finished).total_seconds()
    if left > 0:
        return replace(decision, requeue_after=left)
    run = observed.run
    gone = Deletion("TrainingRun", run.name, run.uid, run.resource_version)
    return replace(decision, delete=(gone,), events=(events.expired(spec),), requeue_after=SOON_SECONDS)


def all_jobsets(observed: Observed) -> tuple[Deletion, ...]:
    """The deletion of each JobSet of the run's attempts."""
    return tuple(Deletion("JobSet", jobset.name, jobset.uid) for jobset in own_jobsets(observed) if not jobset.deleting)


def _topology(spec: TrainingRunSpec, slices: int) -> TopologyStatus:
    topology = on_slices(spec, slices).accelerator.resolve()
    return TopologyStatus(
        slices=topology.slices, hosts=topology.processes, devices=topology.devices, mesh=run_mesh(spec, topology)
    )
