"""A run that trains on another cluster (`spec.managedBy`). Pure.

The operator makes a Workload for the run. MultiKueue copies it to the worker clusters, copies the run to the first one
that admits it, and then copies the status of that run back. The operator of that cluster trains it, and this one only
decides how long the Workload exists: until the run has ended, is suspended or edited, or the Workload loses its quota.
MultiKueue then deletes the run in the other cluster, whose processes save, and the next Workload finds it a cluster
again. So each Workload has another name."""

from halcyon_api.status.run_status import QueueStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.next.carry_out import LATER_SECONDS, SOON_SECONDS
from halcyon_operator.decide.record.status_writes import status_to_write
from halcyon_operator.decide.tell.conditions import Description, recorded_description, with_description
from halcyon_operator.decide.tell.queue import describe_waiting
from halcyon_operator.model.decision import Decision, Deletion, WorkloadPlan
from halcyon_operator.model.untrusted import stamp
from halcyon_operator.model.views import Observed
from halcyon_operator.model.workload import NoWorkload, WorkloadView


def dispatch(observed: Observed, spec: TrainingRunSpec, queue: str) -> Decision:
    """The decision about a run that trains on another cluster.

    Args:
        observed: The observation.
        spec: Its spec.
        queue: Its queue.
    """
    run, status, seen = observed.run, observed.run.status, observed.workload
    ended = status.phase in ("Succeeded", "Failed")
    gone: tuple[Deletion, ...] = ()
    plans: tuple[WorkloadPlan, ...] = ()
    waits = status.queue or QueueStatus(name=queue, waiting_since=stamp(observed.now))
    description = describe_waiting(seen, waits, f"run {run.name}", run.uid, observed.now)
    if isinstance(seen, WorkloadView):
        evicted = seen.active and seen.evicted is not None
        if ended or spec.suspend or evicted or seen.generation != str(run.generation):
            gone = (Deletion("Workload", seen.name, seen.uid),)
            description = recorded_description(status)
        elif seen.admitted:
            return Decision(requeue_after=LATER_SECONDS)
    elif ended and status.observed_generation == run.generation:
        return Decision()
    elif spec.suspend:
        description = Description("Suspended", "Suspended", "suspended; set spec.suspend: false to go on")
    elif isinstance(seen, NoWorkload):
        plans = (WorkloadPlan(run, spec, observed.settings, queue, f"{observed.now:%y%m%d%H%M%S}"),)
    queued = status.but(queue=waits if description.phase == "Queued" else None)
    described = with_description(queued, description, run.generation, observed.now)
    again = SOON_SECONDS if gone else LATER_SECONDS
    return Decision(status_to_write(observed, described), gone, plans, requeue_after=again)
