"""The next step of a run's attempts: keep one, stop one, mint (number) one, create one, or stop the run. Pure.

The basic rule: at any moment at most one attempt may have pods, and its number is recorded before its JobSet exists. So a new attempt takes
five reconciles. Each of them may be the first one of a restarted operator:

1. Stop: the end of the old attempt is written with its cause, its hash is replaced by a mark that matches no spec, and its JobSet is
   deleted in the foreground.
2. Wait: until that JobSet and every pod of the run are deleted, and then the old ConfigMap.
3. Mint: the new number is written into the status, if the run still has the observed resource version.
4. Create: ConfigMap and JobSet with the recorded number, if the number never had a JobSet (`status.jobSetUid` is empty) and no epoch of it
   has written to the root.
5. Keep: the JobSet is seen, its uid is written."""

from __future__ import annotations

from datetime import datetime

from halcyon_api import names
from halcyon_api.elastic import usable_slices
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide import prerequisites
from halcyon_operator.decide.backoff import backoff_of
from halcyon_operator.decide.bad_nodes import current_avoided, node_to_avoid
from halcyon_operator.decide.checkpoint_status import foreign_owner, resume_step, shown_owner
from halcyon_operator.decide.early_stop import completion
from halcyon_operator.decide.edits import lengthened, saved, why
from halcyon_operator.decide.growth import grown, shrunk
from halcyon_operator.decide.leftovers import name_conflict, next_free_attempt, remains_of_attempt, remains_of_earlier_run
from halcyon_operator.decide.manual_suspension import resumed_by_hand
from halcyon_operator.decide.placement import first_slices, placement_of, smaller, trains
from halcyon_operator.decide.queueing import evicted_sentence, was_evicted
from halcyon_operator.decide.recovery import STICKY_REASONS, Rule, decide
from halcyon_operator.decide.recovery_facts import MAX_FENCED_IN_A_ROW, ended_cause, last_cause, last_message, recovery_facts
from halcyon_operator.decide.restart_requests import restart_clause, restart_waits
from halcyon_operator.decide.spec_hash import RETIRED, fits
from halcyon_operator.decide.steps import (
    Await,
    Create,
    DiscardConfigMap,
    Finish,
    Finished,
    HoldBack,
    Keep,
    NewAttempt,
    Rest,
    Stall,
    StayStalled,
    Step,
    Stop,
)
from halcyon_operator.model.ownership import highest_own, own_config_map, own_jobsets
from halcyon_operator.model.untrusted import seconds_between, stamp
from halcyon_operator.model.views import HeadFound, JobSetView, Observed


def current_jobset(observed: Observed) -> JobSetView | None:
    """The JobSet of the recorded attempt, if it exists and belongs to the run."""
    status = observed.run.status
    return next(
        (
            jobset
            for jobset in own_jobsets(observed)
            if jobset.name == names.jobset_name(observed.run.name, status.attempt) and status.job_set_uid in (None, jobset.uid)
        ),
        None,
    )


def next_step(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, wanted_hash: str, now: datetime, *, retry: bool = False
) -> Step:
    """The next step.

    Args:
        observed: The observation.
        status: The run's status, updated from its JobSet and its checkpoints.
        spec: The run's valid spec.
        wanted_hash: Hash of the state of the spec that an attempt should be created from.
        now: The time.
        retry: The spec was edited in a way that may remove the reason why the run has stopped.
    """
    more = lengthened(status, spec)
    if _condition_holds(status, "Succeeded") and not more:
        return Finished()
    jobset = current_jobset(observed)
    if jobset is not None and jobset.outcome == "completed" and not more:
        match completion(observed, status, spec, jobset, now):
            case "completed":
                return Finish(jobset)
            case "unseen":
                return Keep(jobset)
            case "endedEarly":
                pass
    if spec.suspend:
        if jobset is not None and _saves_first(observed, status, jobset, now):
            return Keep(jobset)
        return remains_of_attempt(observed, "suspended", "suspended") or Rest()
    released = False
    if _is_sticky(status):
        if not retry and not restart_waits(status):
            return StayStalled()
        released = True
    if jobset is not None and not jobset.deleting and all(other is jobset for other in own_jobsets(observed)):
        return _with_jobset(observed, status, spec, jobset, wanted_hash, released, now)
    left = remains_of_attempt(observed, "jobSetDeleted", f"JobSet {status.job_set_name or ''} was deleted")
    return left or _without_jobset(observed, status, spec, wanted_hash, released, retry, now)


def _saves_first(observed: Observed, status: TrainingRunStatus, jobset: JobSetView, now: datetime) -> bool:
    """Whether a suspension still waits for a checkpoint: a save may take longer than the grace period of a deleted pod."""
    at_work = jobset.outcome == "running" and not jobset.deleting and not jobset.suspended and status.attempt_spec_hash != RETIRED
    return at_work and trains(status) and status.edit is not None and not saved(observed, status, now)


def _with_jobset(
    observed: Observed,
    status: TrainingRunStatus,
    spec: TrainingRunSpec,
    jobset: JobSetView,
    wanted_hash: str,
    released: bool,
    now: datetime,
) -> Step:
    if status.attempt_spec_hash == RETIRED and not released:
        return Stop(ended_cause(status), last_message(status))
    edited = not fits(status.attempt_spec_hash, wanted_hash)
    renewed = edited or restart_waits(status)
    if jobset.suspended and not jobset.queue and jobset.outcome == "running":
        return Keep(jobset)  # a user suspended it; wait until a user resumes it
    if (why_ended := resumed_by_hand(status, jobset)) is not None:
        return Stop("preempted", why_ended)
    if released or (renewed and jobset.outcome != "running"):
        return _renewed(status, edited)
    # If it were resumed, new processes would have the epoch of processes that may still run; a new attempt queues again instead.
    if jobset.suspended and jobset.outcome == "running" and status.queue is not None and was_evicted(observed, status, jobset):
        return Stop("queueEvicted", evicted_sentence(status.queue))
    slices = placement_of(status, spec).slices
    rule = decide(recovery_facts(observed, status, spec, jobset, now, edited=renewed or slices not in usable_slices(spec)))
    if rule.action != "edited":
        return _step_of(rule, observed, status, spec, jobset, now)
    if renewed:
        return _renewed(status, edited)
    return _resize(status, spec, first_slices(status, spec, fresh=True), f"recovery.elastic does not allow {slices} slices any more", now)


def _renewed(status: TrainingRunStatus, edited: bool) -> Stop:
    """The stop for an edit or for a requested restart. If there are both, the message names the edit."""
    asked = restart_waits(status) and not edited
    return Stop("requested", restart_clause(status)) if asked else Stop("specChanged", why(status))


def _step_of(rule: Rule, observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, jobset: JobSetView, now: datetime) -> Step:
    """The step that carries out a rule of the decision table while there is a JobSet."""
    placement, failed = placement_of(status, spec), jobset.outcome != "running"
    avoided = current_avoided(placement.avoided, spec.recovery.bad_nodes, now)
    waited = f"pods have found no node for {seconds_between(placement.waiting_since, now):.0f} s"
    match rule.action:
        case "stop" if rule.reason:
            return Stall(rule.reason, _stop_message(rule, status, spec, observed.run.name))
        case "smaller" if (slices := smaller(observed, status, spec)) is not None:
            return _resize(status, spec, slices, waited, now)
        case "larger" if placement.room_slices is not None:
            return _resize(status, spec, placement.room_slices, "there is room for more slices", now)
        case "pause":
            return Stop(last_cause(status) if failed else "heldBack", last_message(status))
        case "elsewhere" if (node := node_to_avoid(placement, spec, now)) is not None:
            message = f"avoiding node {node.node}, where the run failed {node.blames} times: {last_message(status)}"
            moved = placement.model_copy(update={"avoided": [*avoided, node], "waiting_since": None})
            return Stop(last_cause(status) if failed else "moved", message, moved)
        case "anywhere":
            nodes = ", ".join(node.node for node in avoided)
            moved = placement.model_copy(update={"avoided": [], "blames": [], "waiting_since": None})
            return Stop("moved", f"{waited} while avoiding {nodes}: using all nodes again", moved)
        case _:
            return Stop(last_cause(status), last_message(status)) if failed else Keep(jobset)


def _resize(status: TrainingRunStatus, spec: TrainingRunSpec, slices: int, why: str, now: datetime) -> Stop:
    placement, asked = placement_of(status, spec), spec.accelerator.slices
    short = why if slices < placement.slices else "there was room for no more"
    reason = f"{slices} of {asked} slices: {short}" if slices < asked else None
    moved = grown(placement, slices, now) if slices > placement.slices else shrunk(placement, slices)
    moved = moved.model_copy(update={"reason": reason, "waiting_since": None})
    return Stop("resized", f"going on with {slices} slices instead of {placement.slices}: {why}", moved)


def _stop_message(rule: Rule, status: TrainingRunStatus, spec: TrainingRunSpec, run_name: str) -> str:
    """One sentence with the reason why a run stops, and how to continue it."""
    message = last_message(status)
    if rule.reason == "Fenced":
        again = f"{MAX_FENCED_IN_A_ROW} attempts in a row lost the checkpoint root to another writer: {message}"
        return f"{again}; find the other writer, then ask for a restart (kubectl halcyon restart)"
    if rule.reason == "RestartsExhausted":
        return (
            f"{status.failures_without_checkpoint} failures in a row without a new checkpoint, and recovery.maxRestarts is "
            f"{spec.recovery.max_restarts}; the last: {message}; read `kubectl logs -l halcyon.dev/run={run_name}`, then edit the "
            "spec, or ask for a restart (kubectl halcyon restart)"
        )
    return message


def _without_jobset(
    observed: Observed,
    status: TrainingRunStatus,
    spec: TrainingRunSpec,
    wanted_hash: str,
    released: bool,
    retry: bool,
    now: datetime,
) -> Step:
    owner = foreign_owner(observed)
    if owner is not None:
        return Stall(
            "CheckpointRootTaken",
            f"spec.checkpoint.root holds the checkpoints of {shown_owner(owner)}; give this run a root of its own",
        )
    if spec.task == "train" and isinstance(observed.head, HeadFound) and _is_done(status, spec):
        return Finish(None)  # also for a run that was deleted and created again, so that it uses no hardware
    if (unmet := prerequisites.unmet_prerequisite(observed.run.name, observed.run.namespace, observed.prerequisites)) is not None:
        return _blocked(unmet)
    if (missing := _missing_origin(observed, status, spec)) is not None:
        return missing
    if (left := remains_of_earlier_run(observed, status)) is not None:
        return left
    unused = status.attempt > 0 and status.job_set_uid is None
    if unused and not released and fits(status.attempt_spec_hash, wanted_hash) and status.root_attempt < status.attempt:
        return name_conflict(observed, status) or Create()
    if own_config_map(observed) is not None:
        return DiscardConfigMap("removing the last attempt's ConfigMap")
    if not released and not retry and (held := _held_back(status, now)) is not None:
        return held
    highest = max(status.attempt, status.root_attempt, highest_own(observed))
    if highest >= names.MAX_ATTEMPT:
        return Stall("AttemptsExhausted", f"attempt {highest} was the last one possible; make a new run with another name and root")
    return NewAttempt(next_free_attempt(observed, highest), released or (bool(status.history) and ended_cause(status) == "suspended"))


def _is_done(status: TrainingRunStatus, spec: TrainingRunSpec) -> bool:
    """Whether a run has nothing left to do: its last step is committed, and exported if the run has exports."""
    steps, progress = spec.trainer.steps, status.progress
    exported = progress is not None and progress.exported_step is not None and progress.exported_step >= steps
    return resume_step(status) >= steps and (spec.export is None or exported)


def _held_back(status: TrainingRunStatus, now: datetime) -> HoldBack | None:
    """The pause before the next attempt; None if there is none, or if a user requested a restart."""
    hold = backoff_of(status)
    if hold is None or hold.is_over(now) or restart_waits(status):
        return None
    message = (
        f"{last_message(status)}; {hold.ends} ends in a row without a checkpoint, so the next attempt is made at {stamp(hold.until)} "
        "(an edit or a requested restart makes it at once)"
    )
    return HoldBack(hold.reason, message, (hold.until - now).total_seconds())


def _blocked(unmet: prerequisites.UnmetPrerequisite) -> Stall | Await:
    """The step of a run whose prerequisite is not met."""
    return Stall(unmet.reason, unmet.message) if unmet.reason else Await(unmet.message)


def _missing_origin(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> Stall | Await | None:
    """The step of a run that begins from another run's checkpoint while that root is not known; None if the run can begin."""
    origin = spec.origin
    if origin is None or origin.run is None or status.checkpoint is not None:
        return None
    root = origin.root or observed.origin_root
    if root is None and observed.origin is not None:
        return _blocked(prerequisites.unmet_origin(observed.origin))
    if root is None:
        return Stall(
            "OriginUnknown",
            f"spec.from.run: there is no TrainingRun {origin.run} in namespace {observed.run.namespace}, so its checkpoint root is not "
            "known; correct the name, or make this run with spec.from.root",
        )
    if root.startswith("file://"):
        return Stall(
            "OriginUnknown",
            f"spec.from: the checkpoints of run {origin.run} are in {root}, on a volume that this run's pods do not have; copy one to this "
            "run's root (halcyon checkpoints copy) and make the run without spec.from",
        )
    return None


def _condition_holds(status: TrainingRunStatus, kind: str) -> bool:
    return any(condition.type == kind and condition.status == "True" for condition in status.conditions)


def _is_sticky(status: TrainingRunStatus) -> bool:
    condition = status.condition("Stalled")
    return condition is not None and condition.status == "True" and condition.reason in STICKY_REASONS
