"""From a plan to the Kubernetes object. Pure."""

from __future__ import annotations

from halcyon_operator.model.decision import ConfigMapPlan, JobSetPlan, Manifest, Plan, ProbePlan
from halcyon_operator.objects.jobset import build_config_map, build_jobset
from halcyon_operator.objects.probe import build_probe


def build(plan: Plan) -> Manifest:
    """The object that a plan describes."""
    match plan:
        case ConfigMapPlan(run, attempt, spec):
            return build_config_map(run, attempt, spec)
        case JobSetPlan(run, spec, settings, attempt, resume_step, remaining_restarts, avoided, save_token):
            return build_jobset(run, spec, settings, attempt, resume_step, remaining_restarts, avoided, save_token)
        case ProbePlan(run, spec, settings, slices, avoided):
            return build_probe(run, spec, settings, slices, avoided)
