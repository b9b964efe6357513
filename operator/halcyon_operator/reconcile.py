"""The centre of the operator: what is seen of a run, and the time, give what to do. Pure, and total over whatever is seen.

Level-triggered: nothing is remembered between looks but what stands in the cluster, so the operator may be killed at any moment. A look
first brings the status up to date (`checkpoint_status`, `follow`), then takes the one next step (`attempts`), and then says in conditions
what that means (`outlooks`, `conditions`).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from halcyon_api import names
from halcyon_api.elastic import on_slices
from halcyon_api.mesh import run_mesh
from halcyon_api.progress import Progress
from halcyon_api.status import TopologyStatus, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator import attempts, defaults, events, steps
from halcyon_operator.checkpoint_status import resume_step, with_checkpoint
from halcyon_operator.conditions import Outlook, stalled, with_outlook
from halcyon_operator.decision import Decision, Deletion, Event, Manifest
from halcyon_operator.edits import in_force_with, with_edits
from halcyon_operator.endings import WorldEnd
from halcyon_operator.follow import count_next_attempt, follow
from halcyon_operator.goodput import account
from halcyon_operator.growth import takes_over
from halcyon_operator.history import last_entry, shown, with_end
from halcyon_operator.jobset import build_config_map, build_jobset
from halcyon_operator.outlooks import keep_outlook, restart_outlook, succeeded_outlook, unchanged_outlook
from halcyon_operator.ownership import highest_own, own_config_map, own_jobsets
from halcyon_operator.peers import peers_to_delete
from halcyon_operator.placement import next_placement, placement_of, trains, with_room
from halcyon_operator.plain import moment, seconds_between, stamp
from halcyon_operator.probe import tend_probe
from halcyon_operator.queueing import UNREAD_SECONDS, queue_changed, with_queue
from halcyon_operator.restart_requests import passed_over, restart_waits, restarted_with, with_restart
from halcyon_operator.runs import permitted
from halcyon_operator.save_requests import next_due, with_requests
from halcyon_operator.settle import settle
from halcyon_operator.spec_hash import RETIRED, attempt_spec_hash
from halcyon_operator.stuck_pods import with_stuck_pods
from halcyon_operator.views import HeadPending, Observed, RunView

SOON_SECONDS = 2.0
"""When to look again at something that is on its way, should the event about it not come."""
LATER_SECONDS = 20.0
"""When to look again at something outside the cluster that holds a run up."""


def reconcile(observed: Observed, now: datetime) -> Decision:
    """What to do about a run now."""
    run = permitted(observed.run, observed.platform)
    observed = replace(observed, run=run)
    if run.deleting:
        # Owner references take everything along; there is nothing outside the cluster to clean up.
        return Decision()
    if isinstance(observed.head, HeadPending):
        return _reading_head(observed, now)
    status = with_checkpoint(observed, now)
    told = events.checkpoint_failing(observed.report)
    jobset = attempts.current_jobset(observed)
    status = with_queue(observed, status, jobset, now)
    if jobset is not None:
        followed = follow(observed, status, jobset, now)
        status, told = followed.status, told + followed.events
        if run.spec is not None:
            status = with_room(observed, status, run.spec, jobset, now)
    wanted = attempt_spec_hash(run.spec, status.attempt_spec_hash) if run.spec is not None else ""
    noticed = with_edits(observed, status, jobset, wanted, now)
    status, told, mended = noticed.status, told + noticed.events, noticed.mended
    if noticed.refusal:
        run = replace(run, spec=None, problems=(noticed.refusal,))
        observed = replace(observed, run=run)
    noticed = with_restart(observed, status, jobset, now)
    status, told = noticed.status, told + noticed.events
    requested = with_requests(observed, status, jobset, now)
    status, told = requested.status, told + requested.events
    if run.spec is None:
        decision = _invalid(observed, status, now)
    else:
        step = attempts.next_step(observed, status, run.spec, wanted, now, mended=mended)
        decision = _with_probe(_carry_out(step, observed, status, run.spec, wanted, now), step, observed, now)
        if isinstance(step, steps.Keep):
            decision = replace(decision, delete=decision.delete + peers_to_delete(observed, status, step.jobset))
    decision = with_stuck_pods(decision, observed, now)
    if decision.status is None:
        return decision
    renewing = jobset is not None and (decision.status.edit is not None or restart_waits(decision.status))
    settled = settle(observed, account(observed, decision.status, now), now)
    if settled is not None and any(deletion.resource_version for deletion in decision.delete):
        # Writing the status changes the run, so whatever depends on its being as it was seen waits for the next look.
        decision = replace(decision, delete=(), events=(), requeue_after=0.0)
    changed: tuple[Event, ...] = ()
    if settled is not None:
        changed = (*events.state_changed(run.status, settled), *events.placement_changed(run.status, settled))
        changed += queue_changed(run.status, settled, now)
    again = decision.requeue_after, next_due(observed, now), SOON_SECONDS if requested.asks or renewing else None
    soonest = min((seconds for seconds in again if seconds is not None), default=None)
    return Decision(settled, decision.delete, decision.create, told + decision.events + changed, requested.asks, soonest)


def _reading_head(observed: Observed, now: datetime) -> Decision:
    """Only tell that a new run was seen: what is done next depends on the checkpoints that are there. The answer brings the next look."""
    run = observed.run
    if run.status.conditions:
        return Decision(requeue_after=LATER_SECONDS)
    outlook = Outlook("Pending", "ReadingCheckpointRoot", "looking into the checkpoint root for a checkpoint to go on from")
    return Decision(settle(observed, with_outlook(run.status, outlook, run.generation, now), now), requeue_after=LATER_SECONDS)


def _with_probe(decision: Decision, step: steps.Step, observed: Observed, now: datetime) -> Decision:
    """The decision with what it takes that the probe for more slices is there when it should be, and only then."""
    if decision.status is None:
        return decision
    placement = decision.status.placement
    wanted = observed.run.spec is not None and not observed.run.spec.suspend
    holding = (
        wanted and placement is not None and takes_over(placement, now, made=isinstance(step, steps.Keep), trains=trains(decision.status))
    )
    spec = observed.run.spec if isinstance(step, steps.Keep) else None
    spec = None if spec is not None and spec.suspend else spec
    create, delete = tend_probe(observed, decision.status, spec, now, holding=holding)
    return replace(decision, create=decision.create + create, delete=decision.delete + delete)


def _invalid(observed: Observed, status: TrainingRunStatus, now: datetime) -> Decision:
    """Nothing is made from a document that is not valid. An attempt that is under way goes on."""
    message = "; ".join(observed.run.problems)
    if status.phase == "Succeeded":
        return Decision(with_outlook(status, unchanged_outlook(status), observed.run.generation, now))
    jobset = attempts.current_jobset(observed)
    if jobset is None or jobset.outcome != "running":
        outlook = stalled("InvalidSpec", message)
    else:
        alive = keep_outlook(observed, status, jobset, now)
        outlook = Outlook(alive.phase, alive.reason, alive.message, "InvalidSpec", f"{message}; attempt {status.attempt} goes on as it was")
    return Decision(with_outlook(status, outlook, observed.run.generation, now), requeue_after=_later(observed))


def _carry_out(
    step: steps.Step, observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, wanted: str, now: datetime
) -> Decision:
    """The decision that a step amounts to."""
    run = observed.run

    def say(status: TrainingRunStatus, outlook: Outlook) -> TrainingRunStatus:
        return with_outlook(status, outlook, run.generation, now)

    match step:
        case steps.Keep(jobset):
            status = _kept(status, run, spec, wanted)
            outlook = keep_outlook(observed, status, jobset, now)
            interval = max(float(spec.telemetry.status_interval_seconds), observed.pace_seconds)
            if outlook.phase == "Queued":
                interval = max(UNREAD_SECONDS, observed.pace_seconds)
            return Decision(say(status, outlook), requeue_after=interval if outlook.phase == "Running" else _soon(status, interval, now))
        case steps.Finish():
            return _finish(observed, _vanished(status, now), spec, now)
        case steps.Finished():
            return _finished(observed, say(status, unchanged_outlook(status)), spec, now)
        case steps.Stop(cause, message, placement):
            world = status.attempt, status.job_set_restarts
            status = with_end(status, world, cause, message, now, None)
            told = events.ended(status, world, WorldEnd(cause, message), restarting=True) if cause == "queueEvicted" else ()
            update: dict[str, object] = {"attempt_spec_hash": RETIRED, "placement": placement or status.placement}
            if cause in ("specChanged", "requested", "suspended"):
                update["failures_without_checkpoint"] = 0
            if cause == "suspended":
                update["edit"] = None
            if (known := highest_own(observed)) > status.attempt:
                # No number is used twice, also not one that the status does not know of.
                update["root_attempt"] = max(status.root_attempt, known)
            status = status.model_copy(update=update)
            outlook = restart_outlook(status, spec, f"stopping attempt {status.attempt}: {message}")
            return Decision(say(status, outlook), _all_jobsets(observed), events=told, requeue_after=SOON_SECONDS)
        case steps.Wait(message):
            return Decision(say(_vanished(status, now), restart_outlook(status, spec, message)), requeue_after=SOON_SECONDS)
        case steps.Await(message):
            return Decision(say(status, Outlook("Pending", "AwaitsRun", message)), requeue_after=_later(observed))
        case steps.HoldBack(reason, message, seconds):
            return Decision(say(_vanished(status, now), Outlook("Restarting", reason, message)), requeue_after=max(1.0, seconds))
        case steps.DiscardConfigMap(message):
            return Decision(
                say(_vanished(status, now), restart_outlook(status, spec, message)),
                delete=_config_map(observed),
                requeue_after=SOON_SECONDS,
            )
        case steps.Mint(attempt, pardon):
            update, told = in_force_with(observed, status, attempt)
            update["defaults"] = run.defaults or status.defaults
            told += defaults.told(run.defaults, attempt)
            restarted, said = restarted_with(status, attempt)
            update, told = update | restarted, told + said
            status = _minted(_vanished(status, now), spec, run.name, attempt, wanted, pardon, now).model_copy(update=update)
            return Decision(say(status, restart_outlook(status, spec, f"attempt {attempt} is on record")), events=told, requeue_after=0.0)
        case steps.Create():
            outlook = restart_outlook(status, spec, f"creating attempt {status.attempt}")
            if observed.create_refusal:
                outlook = replace(outlook, reason="CreateRefused", message=observed.create_refusal)
            return Decision(say(status, outlook), create=_objects(observed, status, spec), requeue_after=SOON_SECONDS)
        case steps.Rest():
            at = f" at step {resume_step(status)}" if resume_step(status) else ""
            outlook = Outlook("Suspended", "Suspended", f"suspended{at}; set spec.suspend: false to go on")
            return Decision(say(_vanished(status, now), outlook))
        case steps.Stall(reason, message):
            return Decision(say(_vanished(status, now), stalled(reason, message)), requeue_after=_later(observed))
        case steps.StayStalled():
            return Decision(say(status, unchanged_outlook(status)))


def _later(observed: Observed) -> float:
    """When to look again at a run that something outside the cluster, or another run, holds up: where there are many, more rarely."""
    return max(LATER_SECONDS, observed.pace_seconds)


def _soon(status: TrainingRunStatus, interval: float, now: datetime) -> float:
    """When to look again at a world that is on its way: ever more rarely, the longer it takes. Events and its first report come at once."""
    entry = last_entry(status, status.attempt)
    waited = seconds_between(entry.started_at, now) if entry is not None else 0.0
    return min(interval, max(SOON_SECONDS, waited / 10))


def _kept(status: TrainingRunStatus, run: RunView, spec: TrainingRunSpec, wanted: str) -> TrainingRunStatus:
    """The status of an attempt that goes on. While an edit waits, what stands there is still what the attempt was made from."""
    if status.edit is not None:
        return status
    in_force = dict(run.fields) if status.in_force is None else status.in_force
    topology = _topology(spec, placement_of(status, spec).slices)
    update: dict[str, object] = {"attempt_spec_hash": wanted, "in_force": in_force, "topology": topology}
    return status.model_copy(update=update | {"defaults": run.defaults or status.defaults})


def _vanished(status: TrainingRunStatus, now: datetime) -> TrainingRunStatus:
    """The status with an end for a world whose JobSet is gone without anyone having seen why."""
    message = f"JobSet {status.job_set_name} was deleted"
    return with_end(status, (status.attempt, status.job_set_restarts), "jobSetDeleted", message, now, None)


def _minted(
    status: TrainingRunStatus, spec: TrainingRunSpec, run_name: str, attempt: int, wanted: str, pardon: bool, now: datetime
) -> TrainingRunStatus:
    placement = next_placement(status, spec, now, anew=pardon)
    update: dict[str, object] = {
        "attempt": attempt,
        "attempt_spec_hash": wanted,
        "job_set_name": names.jobset_name(run_name, attempt),
        "job_set_uid": None,
        "job_set_restarts": 0,
        "job_set_restarts_counted": 0,
        "topology": _topology(spec, placement.slices),
        "placement": placement if placement.avoided or placement.blames or spec.recovery.elastic is not None else None,
        "failures_without_checkpoint": 0 if pardon else status.failures_without_checkpoint,
        "finished_at": None,
    }
    before = last_entry(status, status.attempt)
    if status.job_set_uid is not None and before is not None:
        update["restarts"] = count_next_attempt(status, before.cause or "unknown")
    return status.model_copy(update=update)


def _objects(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> tuple[Manifest, ...]:
    remaining = max(0, spec.recovery.max_restarts - status.failures_without_checkpoint)
    placement = placement_of(status, spec)
    spec, avoided = on_slices(spec, placement.slices), [node.node for node in placement.avoided]
    if spec.origin is not None and spec.origin.root is None and observed.origin_root is not None:
        spec = spec.model_copy(update={"origin": spec.origin.model_copy(update={"root": observed.origin_root})})
    jobset = build_jobset(
        observed.run, spec, observed.platform, status.attempt, resume_step(status), remaining, avoided, observed.fresh_token
    )
    return (jobset,) if observed.config_map is not None else (build_config_map(observed.run, status.attempt, spec), jobset)


def _finish(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, now: datetime) -> Decision:
    jobset = attempts.current_jobset(observed)
    end = (jobset.finished_at if jobset is not None else None) or now
    update: dict[str, object] = {
        "finished_at": status.finished_at or stamp(end),
        "topology": status.topology or _topology(spec, spec.accelerator.slices),
        # Of a run that finds its root finished there is none yet, and by it is told whether an edit asks for more steps.
        "in_force": dict(observed.run.fields) if status.in_force is None else status.in_force,
    }
    if spec.task == "evaluate":
        update["progress"] = _last_progress(observed, status).model_copy(update={"eta_seconds": None})
    if spec.task == "train":
        final = {"step": spec.trainer.steps, "steps": spec.trainer.steps, "tokens": spec.trainer.tokens, "eta_seconds": None}
        update["progress"] = _last_progress(observed, status).model_copy(update=final)
    status = passed_over(status).model_copy(update=update)
    status = with_outlook(status, succeeded_outlook(status, spec), observed.run.generation, now)
    return _finished(observed, status, spec, now)


def _last_progress(observed: Observed, status: TrainingRunStatus) -> Progress:
    """The last numbers of the run: as process 0 left them behind, else as they were last read."""
    known = status.progress or Progress()
    world = (status.attempt, status.job_set_restarts)
    left = (ending.report.progress for ending in observed.endings if ending.world == world and ending.report is not None)
    return next((shown(progress, known) for progress in left if progress is not None), known)


def _finished(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, now: datetime) -> Decision:
    """A finished run stays, with its pods for their logs, until its time to live is over. Its checkpoints stay in any case."""
    if spec.ttl_seconds_after_finished is None:
        return Decision(status)
    finished = moment(status.finished_at) or now
    left = spec.ttl_seconds_after_finished - (now - finished).total_seconds()
    if left > 0:
        return Decision(status, requeue_after=left)
    run = observed.run
    gone = Deletion("TrainingRun", run.name, run.uid, run.resource_version)
    return Decision(status, (gone,), events=(events.expired(spec),), requeue_after=SOON_SECONDS)


def _all_jobsets(observed: Observed) -> tuple[Deletion, ...]:
    return tuple(Deletion("JobSet", jobset.name, jobset.uid) for jobset in own_jobsets(observed) if not jobset.deleting)


def _config_map(observed: Observed) -> tuple[Deletion, ...]:
    found = own_config_map(observed)
    return (Deletion("ConfigMap", found.name, found.uid),) if found is not None and not found.deleting else ()


def _topology(spec: TrainingRunSpec, slices: int) -> TopologyStatus:
    topology = on_slices(spec, slices).accelerator.resolve()
    return TopologyStatus(slices=topology.slices, hosts=topology.processes, devices=topology.devices, mesh=run_mesh(spec, topology))
