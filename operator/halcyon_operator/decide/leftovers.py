"""Objects that must be deleted before a run's next attempt, and objects of other owners with its names. Pure.

The operator changes only objects of the run. Objects of other owners are reported to the user and not changed."""

from __future__ import annotations

from halcyon_api import names
from halcyon_api.ends import EndCause
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.steps import Stall, Stop, Wait
from halcyon_operator.model.ownership import own_config_map, own_jobsets
from halcyon_operator.model.views import Observed


def remains_of_attempt(observed: Observed, cause: EndCause, message: str) -> Stop | Wait | None:
    """The step that deletes the last attempt's objects, or waits for their deletion; None if they are deleted."""
    owned = own_jobsets(observed)
    if any(not jobset.deleting for jobset in owned):
        return Stop(cause, message)
    if owned:
        return Wait(f"waiting for JobSet {owned[0].name} and its pods to be gone")
    # Pods without a JobSet are deleted by Kubernetes, unless a user orphaned their Jobs.
    pods = [pod for pod in observed.pods if not pod.over or pod.deleting]
    if pods:
        on = f" on node {pods[0].node}" if pods[0].node else ""
        return Wait(f"waiting for {len(pods)} pods of the last attempt to end, among them {pods[0].name}{on}")
    return None


def remains_of_earlier_run(observed: Observed, status: TrainingRunStatus) -> Stall | Wait | None:
    """The step for objects of an earlier run of the same name. A new attempt would fence its trainers before their last
    save.

    Objects without an owner stay until a user deletes them: the operator changes only objects of the run.
    """
    if status.attempt > 0:
        return None
    run, whose = observed.run, "of an earlier run of this name"
    jobsets = [
        jobset
        for jobset in observed.jobsets
        if jobset.owner_uid != run.uid and names.is_attempt_name(run.name, jobset.name)
    ]
    for jobset in jobsets:
        if jobset.outcome == "running" and not jobset.deleting and not jobset.owner_uid:
            # A background deletion removes the JobSet first, and its controller, which lags, may then create its Jobs
            # once more.
            fix = f"kubectl delete jobset,configmap {jobset.name} --namespace {run.namespace} --cascade=foreground"
            return Stall(
                "NameTaken",
                f"JobSet {jobset.name} {whose}, which was deleted without it, still runs; delete it ({fix}): its pods "
                "save, "
                "and this run goes on from there",
            )
    if at_work := next((jobset for jobset in jobsets if jobset.outcome == "running" or jobset.deleting), None):
        return Wait(f"waiting for JobSet {at_work.name} {whose} and its pods to be gone")
    if pods := [pod for pod in observed.earlier_pods if not pod.over or pod.deleting]:
        on = f" on node {pods[0].node}" if pods[0].node else ""
        return Wait(f"waiting for {len(pods)} pods {whose} to end, among them {pods[0].name}{on}")
    return None


def name_conflict(observed: Observed, status: TrainingRunStatus) -> Stall | Wait | None:
    """The step if an object of another owner has a name that the attempt needs; None if there is none."""
    name = names.jobset_name(observed.run.name, status.attempt)
    foreign = [jobset for jobset in observed.jobsets if jobset.name == name and jobset.owner_uid != observed.run.uid]
    own = own_config_map(observed)
    if not foreign and own is not None and own.deleting:
        return Wait(f"waiting for ConfigMap {name} to be gone")
    kind = "JobSet" if foreign else "ConfigMap" if observed.config_map is not None and own is None else None
    if kind is None:
        return None
    return Stall(
        "NameTaken", f"{kind} {name} exists and is not this run's; remove it or make the run under another name"
    )


def next_free_attempt(observed: Observed, highest: int) -> int:
    """The next number whose name no object has. A foreign JobSet blocks only its own number, not the lower ones."""
    taken = {jobset.name for jobset in observed.jobsets}
    number = highest + 1
    while names.jobset_name(observed.run.name, number) in taken:
        number += 1
    return number
