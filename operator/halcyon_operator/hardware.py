"""What the accelerator section means to the scheduler and to libtpu: selectors, tolerations, resources, annotations, environment.

Labels and taints are GKE's. A TPU slice is a node pool: selecting accelerator and topology gives some slice of that shape, and JobSet's
exclusive placement keeps the pods of one job (one slice of the run) on one node pool when there are several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from halcyon_api import names
from halcyon_api.spec.accelerator import TPU_TABLE, AcceleratorSpec

TPU_RESOURCE = "google.com/tpu"
NODE_POOL_LABEL = "cloud.google.com/gke-nodepool"
ACCELERATOR_LABEL = "cloud.google.com/gke-tpu-accelerator"
TOPOLOGY_LABEL = "cloud.google.com/gke-tpu-topology"
SPOT_LABEL = "cloud.google.com/gke-spot"
FLEX_START_LABEL = "cloud.google.com/gke-flex-start"
RESERVATION_LABEL = "cloud.google.com/reservation-name"
EXCLUSIVE_TOPOLOGY_ANNOTATION = "alpha.jobset.sigs.k8s.io/exclusive-topology"
MEGASCALE_PORT = 8080
"""Port on which the first host of slice 0 coordinates transfers between slices."""


@dataclass(frozen=True)
class Placement:
    """Where the pods of a run belong and what they get there."""

    node_selector: dict[str, str]
    tolerations: list[dict[str, str]]
    resources: dict[str, dict[str, str]]
    jobset_annotations: dict[str, str]


def place(accelerator: AcceleratorSpec) -> Placement:
    """The placement of an accelerator section. A `cpu` run goes to any node."""
    wanted = accelerator.host_resources
    amounts = {name: amount for name, amount in (("cpu", wanted.cpu), ("memory", wanted.memory)) if amount is not None}
    selector: dict[str, str] = {}
    tolerations: list[dict[str, str]] = []
    annotations: dict[str, str] = {}
    if (generation := TPU_TABLE.get(accelerator.type)) is not None:
        amounts[TPU_RESOURCE] = str(generation.shapes[accelerator.topology].chips_per_host)
        selector = {ACCELERATOR_LABEL: generation.node_label, TOPOLOGY_LABEL: accelerator.topology}
        tolerations.append({"key": TPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"})
        if accelerator.slices > 1:
            annotations[EXCLUSIVE_TOPOLOGY_ANNOTATION] = NODE_POOL_LABEL
    label = {"spot": SPOT_LABEL, "flexStart": FLEX_START_LABEL}.get(accelerator.provisioning)
    if label is not None:
        selector[label] = "true"
        tolerations.append({"key": label, "operator": "Equal", "value": "true", "effect": "NoSchedule"})
    if accelerator.reservation is not None:
        selector[RESERVATION_LABEL] = accelerator.reservation
    return Placement(selector, tolerations, {"requests": dict(amounts), "limits": dict(amounts)} if amounts else {}, annotations)


def multislice_environment(
    accelerator: AcceleratorSpec, hosts_per_slice: int, hostnames: list[str], coordinator: str
) -> list[dict[str, Any]]:
    """What libtpu must know of the other slices; nothing for one slice.

    Args:
        accelerator: The accelerator section.
        hosts_per_slice: Hosts of one slice.
        hostnames: DNS names of the hosts of the pod's own slice, with ``$(HALCYON_JOB_INDEX)`` for the slice.
        coordinator: DNS name of the first host of slice 0.
    """
    if accelerator.type not in TPU_TABLE or accelerator.slices == 1:
        return []
    variables: list[dict[str, Any]] = [
        {"name": "MEGASCALE_NUM_SLICES", "value": str(accelerator.slices)},
        {"name": "MEGASCALE_SLICE_ID", **from_pod(names.JOBSET_JOB_INDEX)},
        {"name": "MEGASCALE_COORDINATOR_ADDRESS", "value": coordinator},
        {"name": "MEGASCALE_PORT", "value": str(MEGASCALE_PORT)},
        {"name": "TPU_WORKER_ID", **from_pod(names.JOB_COMPLETION_INDEX)},
    ]
    if hosts_per_slice > 1:
        variables.append({"name": "TPU_WORKER_HOSTNAMES", "value": ",".join(hostnames)})
    return variables


def from_pod(annotation: str) -> dict[str, Any]:
    """A variable's value from an annotation of the pod itself."""
    return {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{annotation}']"}}}
