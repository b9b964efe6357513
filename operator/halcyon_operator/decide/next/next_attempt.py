"""The cases when an attempt has ended and its objects are deleted, or before the first attempt. Pure.

**Prerequisites**: the run of `spec.after` is checked only before the first attempt: a run that has begun continues in
any case. A cycle of runs that wait for one another is found by following `spec.after` from run to run; only runs that
have not begun can be part of a cycle. The run of `spec.from` is waited for while it has no checkpoint root.

**Leftovers**: the operator changes only objects of the run. Objects of other owners with its names are reported to the
user and not changed.
"""

from halcyon_api import names
from halcyon_api.ends import EndCause
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.next import steps
from halcyon_operator.decide.next.backoff import backoff_of
from halcyon_operator.decide.next.steps import Case, Situation
from halcyon_operator.decide.record.checkpoint import foreign_owner, shown_owner
from halcyon_operator.decide.record.plan import plan_hash, plan_mode
from halcyon_operator.decide.tell.pods import on_node
from halcyon_operator.model.history import ended_cause, last_message
from halcyon_operator.model.ownership import highest_own, own_config_map, own_jobsets
from halcyon_operator.model.untrusted import stamp
from halcyon_operator.model.views import HeadFound, Observed, Prerequisite


def _foreign_root(situation: Situation) -> steps.Stall | None:
    owner = foreign_owner(situation.observed)
    if owner is None:
        return None
    return steps.Stall(
        "CheckpointRootTaken",
        f"spec.checkpoint.root holds the checkpoints of {shown_owner(owner)}; give this run a root of its own",
    )


def _already_done(situation: Situation) -> steps.Finish | None:
    """Also for a run that was deleted and created again, so that it uses no hardware."""
    status, spec = situation.status, situation.spec
    planned, progress = spec.trainer.steps, status.progress
    exported = spec.export is None or ((progress and progress.exported_step) or 0) >= planned
    known = spec.task == "train" and isinstance(situation.observed.head, HeadFound)
    return steps.Finish(None) if known and status.resume_step >= planned and exported else None


def _prerequisite(situation: Situation) -> steps.Stall | steps.Await | None:
    run = situation.observed.run
    return unmet_prerequisite(run.name, run.namespace, situation.observed.prerequisites)


def _missing_origin(situation: Situation) -> steps.Stall | steps.Await | None:
    """The step of a run that begins from another run's checkpoint while that root is not known; None if the run can
    begin.
    """
    observed, status, spec = situation.observed, situation.status, situation.spec
    origin = spec.origin
    if origin is None or origin.run is None or status.checkpoint is not None:
        return None
    root = origin.root or observed.origin_root
    if root is None and observed.origin is not None:
        return unmet_origin(observed.origin)
    if root is None:
        return steps.Stall(
            "OriginUnknown",
            f"spec.from.run: there is no TrainingRun {origin.run} in namespace {observed.run.namespace}, so its "
            "checkpoint root is not known; correct the name, or make this run with spec.from.root",
        )
    if root.startswith("file://"):
        return steps.Stall(
            "OriginUnknown",
            f"spec.from: the checkpoints of run {origin.run} are in {root}, on a volume that this run's pods do not "
            "have; copy one to this run's root (halcyon checkpoints copy) and make the run without spec.from",
        )
    return None


def _create(situation: Situation) -> steps.Step | None:
    """The number never had a JobSet, and no epoch of it has written to the root."""
    status = situation.status
    unused = status.attempt > 0 and status.job_set_uid is None and status.root_attempt < status.attempt
    if not unused or situation.released or situation.edited:
        return None
    return name_conflict(situation.observed, status) or steps.Create()


def _held_back(situation: Situation) -> steps.HoldBack | None:
    """No pause if a user has edited the spec or requested a restart."""
    status, now = situation.status, situation.observed.now
    hold = backoff_of(status)
    if hold is None or hold.is_over(now) or status.restart_waits or situation.released or situation.retry:
        return None
    message = (
        f"{last_message(status)}; {hold.ends} ends in a row without a checkpoint, so the next attempt is made at "
        f"{stamp(hold.until)} (an edit or a requested restart makes it at once)"
    )
    return steps.HoldBack(hold.reason, message, (hold.until - now).total_seconds())


def _highest(situation: Situation) -> int:
    status, observed = situation.status, situation.observed
    return max(status.attempt, status.root_attempt, highest_own(observed))


def _exhausted(situation: Situation) -> steps.Stall | None:
    if (highest := _highest(situation)) < names.MAX_ATTEMPT:
        return None
    return steps.Stall(
        "AttemptsExhausted", f"attempt {highest} was the last one possible; make a new run with another name and root"
    )


def _unplanned(situation: Situation) -> steps.MakePlan | None:
    spec, status = situation.spec, situation.status
    if plan_mode(spec, situation.observed.settings) == "off":
        return None
    return None if status.plan and status.plan.hash == plan_hash(spec) else steps.MakePlan()


def _too_large(situation: Situation) -> steps.Stall | None:
    spec, plan = situation.spec, situation.status.plan
    if (
        plan is None
        or not (plan.failed or plan.fits is False)
        or plan_mode(spec, situation.observed.settings) != "require"
    ):
        return None
    if plan.fits is False:
        fix = "more microbatches, remat, more or larger devices, another mesh (`halcyon plan --search`)"
        said = f"spec.plan: {plan.message.removesuffix('.')}"
        return steps.Stall("DoesNotFit", f"{said}; choose {fix}, or apply a smaller model as a new run")
    return steps.Stall(
        "PlanFailed", f"spec.plan: {plan.message}; mend it, or set spec.plan: warn to begin without a plan"
    )


def new_attempt(situation: Situation) -> steps.NewAttempt:
    """The step if nothing stands against a new attempt."""
    status = situation.status
    resumed = bool(status.history) and ended_cause(status) == EndCause.SUSPENDED
    return steps.NewAttempt(next_free_attempt(situation.observed, _highest(situation)), situation.released or resumed)


AFTER_ATTEMPT: tuple[Case, ...] = (
    Case("the root belongs to another run", "stops: `CheckpointRootTaken`", _foreign_root),
    Case("the last step is committed, and exported if the run has `export`", "the run has succeeded", _already_done),
    Case("`after` names a run that has not succeeded", "waits for it, or stops if it cannot succeed", _prerequisite),
    Case(
        "`from` names a run without a checkpoint root that pods can read",
        "waits for it, or stops: `OriginUnknown`",
        _missing_origin,
    ),
    Case(
        "objects of an earlier run of this name are left",
        "waits for their end, or stops: `NameTaken`",
        lambda situation: remains_of_earlier_run(situation.observed, situation.status),
    ),
    Case(
        "the number of the next attempt is recorded, and the spec is still that of this number",
        "creates its objects",
        _create,
    ),
    Case(
        "the ConfigMap of the last attempt is left",
        "deletes it",
        lambda situation: steps.DiscardConfigMap() if own_config_map(situation.observed) else None,
    ),
    Case("ends without a checkpoint, or a store that cannot be reached, cause a pause", "waits", _held_back),
    Case("all numbers of attempts are used", "stops: `AttemptsExhausted`", _exhausted),
    Case("the step is not planned, and `plan` asks for it", "plans it: `Planning`", _unplanned),
    Case("`plan: require`, and the step does not fit, or has no plan", "stops: `DoesNotFit`, `PlanFailed`", _too_large),
    Case("otherwise", "records the number of a new attempt", new_attempt),
)
"""While the run has no JobSet: what follows from the table's **same**, **edited** and so on."""


def unmet_prerequisite(run: str, namespace: str, chain: tuple[Prerequisite, ...]) -> steps.Stall | steps.Await | None:
    """The step of a run that must wait; None if it does not have to.

    Args:
        run: Name of the run.
        namespace: Namespace of the run.
        chain: The run that it waits for, the run that that run waits for, and so on; empty: none.
    """
    if not chain or (first := chain[0]).phase == "Succeeded":
        return None
    if chain[-1].after in {run, *(other.name for other in chain)}:
        links = ", ".join(f"{other.name} for {other.after if other.after != run else 'this run'}" for other in chain)
        sentence = f"this run waits for {first.name}, {links}: none of them can begin; leave `after` out of one of them"
        return steps.Stall("AwaitedRunCycle", f"spec.after.run: {sentence}")
    if first.phase is None:
        fix = "create it, correct the name, or leave `after` out if that run has succeeded and was deleted"
        return steps.Await(
            f"spec.after.run: waits for run {first.name}, and there is none of that name in namespace {namespace}; "
            f"{fix}"
        )
    reason = f": {first.message}" if first.message else ""
    if first.phase == "Failed":
        return steps.Stall(
            "AwaitedRunFailed",
            f"spec.after.run: run {first.name}, for which this one waits, has failed{reason}; fix that run",
        )
    return steps.Await(f"waits for run {first.name} to succeed, which is {first.phase}{reason}")


def unmet_origin(origin: Prerequisite) -> steps.Stall | steps.Await:
    """The step of a run whose `spec.from` names a run that has no checkpoint root before its first attempt.

    The other run's message is left out: that run may wait for this one, and then each message would contain the other
    one without end.
    """
    if origin.phase == "Failed":
        sentence = f"run {origin.name} has failed before it began, so its checkpoint root is not known; fix that run"
        return steps.Stall("OriginUnknown", f"spec.from.run: {sentence}")
    return steps.Await(
        f"spec.from.run: waits for run {origin.name} to begin, which is {origin.phase}; until then, it has no "
        "checkpoint root"
    )


def remains_of_attempt(observed: Observed, cause: EndCause, message: str) -> steps.Stop | steps.Wait | None:
    """The step that deletes the last attempt's objects, or waits for their deletion; None if they are deleted."""
    owned = own_jobsets(observed)
    if any(not jobset.deleting for jobset in owned):
        return steps.Stop(cause, message)
    if owned:
        return steps.Wait(f"waiting for JobSet {owned[0].name} and its pods to be gone")
    # Pods without a JobSet are deleted by Kubernetes, unless a user orphaned their Jobs.
    pods = [pod for pod in observed.pods if not pod.over or pod.deleting]
    if pods:
        return steps.Wait(
            f"waiting for {len(pods)} pods of the last attempt to end, among them {pods[0].name}{on_node(pods[0])}"
        )
    return None


def remains_of_earlier_run(observed: Observed, status: TrainingRunStatus) -> steps.Stall | steps.Wait | None:
    """The step for objects of an earlier run of the same name. A new attempt would fence its trainers before their last
    save.

    Objects without an owner stay until a user deletes them: the operator changes only objects of the run.
    """
    if status.attempt > 0:
        return None
    run, whose = observed.run, "of an earlier run of this name"
    at_work = [
        jobset
        for jobset in observed.jobsets
        if jobset.owner_uid != run.uid and names.is_attempt_name(run.name, jobset.name)
        if jobset.outcome == "running" or jobset.deleting
    ]
    for jobset in at_work:
        if not jobset.deleting and not jobset.owner_uid:
            # A background deletion removes the JobSet first, and its controller, which lags, may then create its Jobs
            # once more.
            fix = f"kubectl delete jobset,configmap {jobset.name} --namespace {run.namespace} --cascade=foreground"
            return steps.Stall(
                "NameTaken",
                f"JobSet {jobset.name} {whose}, which was deleted without it, still runs; delete it ({fix}): its pods "
                "save, and this run goes on from there",
            )
    if at_work:
        return steps.Wait(f"waiting for JobSet {at_work[0].name} {whose} and its pods to be gone")
    if pods := [pod for pod in observed.earlier_pods if not pod.over or pod.deleting]:
        return steps.Wait(f"waiting for {len(pods)} pods {whose} to end, among them {pods[0].name}{on_node(pods[0])}")
    return None


def name_conflict(observed: Observed, status: TrainingRunStatus) -> steps.Stall | steps.Wait | None:
    """The step if an object of another owner has a name that the attempt needs; None if there is none."""
    name = names.jobset_name(observed.run.name, status.attempt)
    foreign = [jobset for jobset in observed.jobsets if jobset.name == name and jobset.owner_uid != observed.run.uid]
    own = own_config_map(observed)
    if not foreign and own and own.deleting:
        return steps.Wait(f"waiting for ConfigMap {name} to be gone")
    kind = "JobSet" if foreign else "ConfigMap" if observed.config_map is not None and own is None else None
    if kind is None:
        return None
    return steps.Stall(
        "NameTaken", f"{kind} {name} exists and is not this run's; remove it or make the run under another name"
    )


def next_free_attempt(observed: Observed, highest: int) -> int:
    """The next number whose name no object has. A foreign JobSet blocks only its own number, not the lower ones."""
    taken = {jobset.name for jobset in observed.jobsets}
    number = highest + 1
    while names.jobset_name(observed.run.name, number) in taken:
        number += 1
    return number
