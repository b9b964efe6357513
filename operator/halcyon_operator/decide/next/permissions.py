"""Rejects settings of a run that this installation does not allow. Pure."""

from dataclasses import replace

from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.spec.variables import is_allowed
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.settings import Settings, TrainerPods, endpoint_refusal
from halcyon_operator.model.views import RunView


def permitted(run: RunView, settings: Settings) -> RunView:
    """The run; without its spec, and with the reason, if this installation does not allow the spec."""
    if run.spec is None:
        return run
    refusals = [_forbidden(spec, settings) for spec in run.rows or (run.spec,)]
    row = next((row for row, refusal in enumerate(refusals) if refusal is not None), None)
    if row is None:
        return run
    refusal = str(refusals[row])
    if row > 0:
        refusal = refusal.replace("spec.accelerator", f"spec.place.otherwise[{row - 1}].accelerator", 1)
    return replace(run, spec=None, problems=(refusal,))


def _forbidden(spec: TrainingRunSpec, settings: Settings) -> str | None:
    pods = settings.trainer_pods
    if (refusal := endpoint_refusal(spec.checkpoint.endpoint, settings.object_store.s3.endpoints)) is not None:
        return refusal
    if spec.scheduling.queue is not None and not settings.kueue.enabled:
        return (
            "spec.scheduling.queue: this installation uses no queues; leave it out, or have the operator's owner set "
            "kueue.enabled in the chart"
        )
    if spec.managed_by is not None and not settings.kueue.multi_kueue:
        return (
            "spec.managedBy: this installation sends no runs to other clusters; leave it out, or have the operator's "
            "owner set kueue.multiKueue in the chart"
        )
    refused = [variable.name for variable in spec.env if not is_allowed(variable.name, pods.variables)]
    if refused:
        return (
            f"spec.env[{refused[0]}]: this installation lets runs set {', '.join(pods.variables) or 'no variable'}; "
            "leave it out, or have the operator's owner add it to trainerPods.variables in the chart"
        )
    keys = [key for key in spec.scheduling.labels if key not in pods.run_labels]
    if keys:
        return (
            f"spec.scheduling.labels[{keys[0]}]: this installation lets runs set "
            f"{', '.join(pods.run_labels) or 'no label'}; "
            "leave it out, or have the operator's owner add it to trainerPods.runLabels in the chart"
        )
    if spec.accelerator.fabric is not None:
        return _refused_fabric(spec.accelerator.fabric, spec.accelerator, pods)
    if spec.accelerator.network == "standard" or settings.gpu_direct.allowed:
        return None
    return (
        "spec.accelerator.network: gpuDirect gives pods directories of their node, which this installation does not "
        "allow; leave it out, or have the operator's owner set gpuDirect.allowed in the chart"
    )


def _refused_fabric(name: str, accelerator: AcceleratorSpec, pods: TrainerPods) -> str | None:
    known, profile = pods.all_fabrics(), pods.security_of(accelerator)
    if (fabric := known.get(name)) is None:
        return (
            f"spec.accelerator.fabric: there is no fabric {name}; take one of {', '.join(known)}, or have the "
            "operator's owner add it to trainerPods.fabrics in the chart"
        )
    if fabric.types and accelerator.type not in fabric.types:
        return (
            f"spec.accelerator.fabric: {name} is a network of {' and '.join(fabric.types)}, not of {accelerator.type}; "
            "set accelerator.type to it, or take another fabric"
        )
    if missing := [need for need in fabric.needs if not profile.gives(need)]:
        return (
            f"spec.accelerator.fabric: pods need {' and '.join(missing)} for {name}, which this installation does not "
            f"give them; have the operator's owner set trainerPods.security.{name} in the chart"
        )
    return None
