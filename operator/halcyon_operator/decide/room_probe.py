"""When a probe searches for room for more slices. A probe is a JobSet whose pods request the same resources as the
run's and do nothing. Pure.

If its pods run, there is room. They hold the room until the run has saved and stopped, and have pulled the image by
then. Autoscalers treat them like other pods. There is at most one probe, and only while the run trains: if pods of the
run itself wait for nodes, it is deleted."""

from __future__ import annotations

from datetime import datetime

from halcyon_api import names
from halcyon_api.elastic import usable_slices
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.bad_nodes import current_avoided
from halcyon_operator.decide.growth import may_probe
from halcyon_operator.decide.placement import placement_of, trains
from halcyon_operator.model.decision import Deletion, ProbePlan
from halcyon_operator.model.history import entry_of, present_group
from halcyon_operator.model.untrusted import seconds_between
from halcyon_operator.model.views import Observed


def missing_slices(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, now: datetime) -> int:
    """Number of additional slices to probe for now."""
    elastic, placement = spec.recovery.elastic, placement_of(status, spec)
    if elastic is None or placement.waiting_since is not None or not trains(status):
        return 0
    entry = entry_of(status, present_group(status))
    since = entry.first_step_at if entry is not None else None
    if observed.probe is None and (
        seconds_between(since, now) < elastic.grow_after_seconds or not may_probe(placement, now)
    ):
        return 0
    return max(0, max(usable_slices(spec), default=0) - placement.slices)


def plan_probe(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec | None, now: datetime, *, holding: bool
) -> tuple[tuple[ProbePlan, ...], tuple[Deletion, ...]]:
    """The creation or deletion of the probe.

    Args:
        observed: The observation.
        status: The run's status after this reconcile.
        spec: The run's spec; None if its attempt does not run.
        now: The time.
        holding: Whether the old attempt is being stopped because of the probe's room, or the new one has not taken that
            room yet.
    """
    probe = observed.probe
    missing = missing_slices(observed, status, spec, now) if spec is not None else 0
    if probe is None:
        return ((_plan(observed, status, spec, missing, now),) if spec is not None and missing else ()), ()
    own = probe.jobset.owner_uid == observed.run.uid != "" and probe.jobset.name == names.probe_name(observed.run.name)
    if probe.jobset.deleting or not own:
        return (), ()
    if holding or (missing and probe.jobset.replicas == missing and probe.jobset.outcome == "running"):
        return (), ()
    return (), (Deletion("JobSet", probe.jobset.name, probe.jobset.uid),)


def _plan(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, slices: int, now: datetime
) -> ProbePlan:
    avoided = current_avoided(placement_of(status, spec).avoided, spec.recovery.bad_nodes, now)
    return ProbePlan(observed.run, spec, observed.settings, slices, tuple(node.node for node in avoided))
