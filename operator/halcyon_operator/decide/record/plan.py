"""The plan of a run, recorded from its planning pod. Pure.

The planning pod compiles the step without its hardware (``halcyon plan``). Its answer holds for the part of the spec
that decides it, so a new attempt with the same part is not planned again. A pod that does not answer in time counts as
one that failed.
"""

from datetime import datetime

from halcyon_api.status.plan import PlanStatus
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.record.spec_hash import hash_of
from halcyon_operator.model.endings import ending_sentence
from halcyon_operator.model.numbers import readable
from halcyon_operator.model.settings import PlanMode, Settings
from halcyon_operator.model.views import Observed, PlannerView

_DECIDE = {
    "accelerator", "adapter", "average", "image", "mesh", "model", "objective", "optimizer", "tokenizer", "trainer"
}  # fmt: skip
"""The sections of a spec that decide its plan."""
_PATIENCE_SECONDS = 60.0
"""Time beyond that of the planning pod after which its JobSet counts as failed, whatever it shows."""


def plan_mode(spec: TrainingRunSpec, settings: Settings) -> PlanMode:
    """Whether a run is planned before an attempt. Only trainings are, and not those on processors, which it would only
    delay.
    """
    if spec.task != "train" or spec.accelerator.row.family == "cpu":
        return "off"
    return spec.plan or settings.planning.mode


def plan_hash(spec: TrainingRunSpec) -> str:
    """Hash of the part of a spec that decides its plan: 16 characters, as a label has them."""
    return hash_of(spec, _DECIDE, {"accelerator": {"price_per_chip_hour": True}})[:16]


def with_plan(observed: Observed, status: TrainingRunStatus) -> TrainingRunStatus:
    """The status with the answer of the planning pod, if there is one."""
    spec, planner = observed.run.spec, observed.planner
    if spec is None or planner is None or planner.hash != plan_hash(spec):
        return status
    found = planner.answer or _failure(planner, observed.settings.planning.seconds, observed.now)
    if found is None:
        return status
    price = spec.accelerator.price_per_chip_hour
    cost = None if price is None or found.chip_hours is None else found.chip_hours * price
    return status.but(plan=readable(found.but(hash=planner.hash, cost=cost)))


def _failure(planner: PlannerView, seconds: int, now: datetime) -> PlanStatus | None:
    """A plan that failed. None: its pod may still answer."""
    jobset, pod = planner.jobset, planner.pod
    created = jobset.created_at
    if created is not None and (now - created).total_seconds() > seconds + _PATIENCE_SECONDS:
        why = pod.waiting_message or pod.waiting_reason if pod is not None else ""
        return PlanStatus(message=f"planning did not end in {seconds} s{f': {why}' if why else ''}"[:1024])
    if jobset.outcome == "running" or (pod and pod.ending is None):
        return None
    ending = pod and pod.ending
    message = ending.message if ending else ""
    if "DeadlineExceeded" in (message, jobset.failure_reason) or "DeadlineExceeded" in jobset.failure_message:
        return PlanStatus(message=f"planning did not end in {seconds} s")
    why = jobset.failure_message or "its pod is gone" if ending is None else ending_sentence(ending)
    return PlanStatus(message=f"planning failed: {why}"[:1024])
