"""The cases when an attempt has ended and its objects are deleted, or before the first attempt. Pure."""

from __future__ import annotations

from halcyon_api import names
from halcyon_api.ends import EndCause
from halcyon_operator.decide import prerequisites
from halcyon_operator.decide.backoff import backoff_of
from halcyon_operator.decide.checkpoint_status import foreign_owner, resume_step, shown_owner
from halcyon_operator.decide.leftovers import name_conflict, next_free_attempt, remains_of_earlier_run
from halcyon_operator.decide.recovery_facts import ended_cause, last_message
from halcyon_operator.decide.restart_requests import restart_waits
from halcyon_operator.decide.situation import Case, Situation
from halcyon_operator.decide.steps import Await, Create, DiscardConfigMap, Finish, HoldBack, NewAttempt, Stall, Step
from halcyon_operator.model.ownership import highest_own, own_config_map
from halcyon_operator.model.untrusted import stamp
from halcyon_operator.model.views import HeadFound


def _foreign_root(situation: Situation) -> Stall | None:
    owner = foreign_owner(situation.observed)
    if owner is None:
        return None
    return Stall(
        "CheckpointRootTaken",
        f"spec.checkpoint.root holds the checkpoints of {shown_owner(owner)}; give this run a root of its own",
    )


def _already_done(situation: Situation) -> Finish | None:
    """Also for a run that was deleted and created again, so that it uses no hardware."""
    status, spec = situation.status, situation.spec
    steps, progress = spec.trainer.steps, status.progress
    exported = progress is not None and progress.exported_step is not None and progress.exported_step >= steps
    known = spec.task == "train" and isinstance(situation.observed.head, HeadFound)
    return Finish(None) if known and resume_step(status) >= steps and (spec.export is None or exported) else None


def _prerequisite(situation: Situation) -> Stall | Await | None:
    run = situation.observed.run
    unmet = prerequisites.unmet_prerequisite(run.name, run.namespace, situation.observed.prerequisites)
    return None if unmet is None else _blocked(unmet)


def _blocked(unmet: prerequisites.UnmetPrerequisite) -> Stall | Await:
    """The step of a run whose prerequisite is not met."""
    return Stall(unmet.reason, unmet.message) if unmet.reason else Await(unmet.message)


def _missing_origin(situation: Situation) -> Stall | Await | None:
    """The step of a run that begins from another run's checkpoint while that root is not known; None if the run can
    begin.
    """
    observed, status, spec = situation.observed, situation.status, situation.spec
    origin = spec.origin
    if origin is None or origin.run is None or status.checkpoint is not None:
        return None
    root = origin.root or observed.origin_root
    if root is None and observed.origin is not None:
        return _blocked(prerequisites.unmet_origin(observed.origin))
    if root is None:
        return Stall(
            "OriginUnknown",
            f"spec.from.run: there is no TrainingRun {origin.run} in namespace {observed.run.namespace}, so its "
            "checkpoint root is not "
            "known; correct the name, or make this run with spec.from.root",
        )
    if root.startswith("file://"):
        return Stall(
            "OriginUnknown",
            f"spec.from: the checkpoints of run {origin.run} are in {root}, on a volume that this run's pods do not "
            "have; copy one to this "
            "run's root (halcyon checkpoints copy) and make the run without spec.from",
        )
    return None


def _earlier_run(situation: Situation) -> Step | None:
    return remains_of_earlier_run(situation.observed, situation.status)


def _create(situation: Situation) -> Step | None:
    """The number never had a JobSet, and no epoch of it has written to the root."""
    status = situation.status
    unused = status.attempt > 0 and status.job_set_uid is None and status.root_attempt < status.attempt
    if not unused or situation.released or situation.edited:
        return None
    return name_conflict(situation.observed, status) or Create()


def _old_config_map(situation: Situation) -> DiscardConfigMap | None:
    return (
        DiscardConfigMap("removing the last attempt's ConfigMap")
        if own_config_map(situation.observed) is not None
        else None
    )


def _held_back(situation: Situation) -> HoldBack | None:
    """No pause if a user has edited the spec or requested a restart."""
    status, now = situation.status, situation.now
    hold = backoff_of(status)
    if hold is None or hold.is_over(now) or restart_waits(status) or situation.released or situation.retry:
        return None
    message = (
        f"{last_message(status)}; {hold.ends} ends in a row without a checkpoint, so the next attempt is made at "
        f"{stamp(hold.until)} "
        "(an edit or a requested restart makes it at once)"
    )
    return HoldBack(hold.reason, message, (hold.until - now).total_seconds())


def _highest(situation: Situation) -> int:
    status, observed = situation.status, situation.observed
    return max(status.attempt, status.root_attempt, highest_own(observed))


def _exhausted(situation: Situation) -> Stall | None:
    if (highest := _highest(situation)) < names.MAX_ATTEMPT:
        return None
    return Stall(
        "AttemptsExhausted", f"attempt {highest} was the last one possible; make a new run with another name and root"
    )


def new_attempt(situation: Situation) -> NewAttempt:
    """The step if nothing stands against a new attempt."""
    status = situation.status
    resumed = bool(status.history) and ended_cause(status) == EndCause.SUSPENDED
    return NewAttempt(next_free_attempt(situation.observed, _highest(situation)), situation.released or resumed)


AFTER_ATTEMPT: tuple[Case, ...] = (
    Case("the root belongs to another run", "stops: `CheckpointRootTaken`", _foreign_root),
    Case("the last step is committed, and exported if the run has `export`", "the run has succeeded", _already_done),
    Case("`after` names a run that has not succeeded", "waits for it, or stops if it cannot succeed", _prerequisite),
    Case(
        "`from` names a run without a checkpoint root that pods can read",
        "waits for it, or stops: `OriginUnknown`",
        _missing_origin,
    ),
    Case("objects of an earlier run of this name are left", "waits for their end, or stops: `NameTaken`", _earlier_run),
    Case(
        "the number of the next attempt is recorded, and the spec is still that of this number",
        "creates its objects",
        _create,
    ),
    Case("the ConfigMap of the last attempt is left", "deletes it", _old_config_map),
    Case("ends without a checkpoint, or a store that cannot be reached, cause a pause", "waits", _held_back),
    Case("all numbers of attempts are used", "stops: `AttemptsExhausted`", _exhausted),
    Case("otherwise", "records the number of a new attempt", new_attempt),
)
"""While the run has no JobSet: what follows from the table's **same**, **edited** and so on."""
