"""Converts the accelerator section to settings of the scheduler, the device plugins, libtpu and NCCL. Pure.

`halcyon_api.hardware` has one row for each accelerator; this module converts the row to selectors, tolerations,
resources, annotations, volumes and environment. A TPU slice is a node pool: a selector for accelerator and topology
matches any slice of that shape, and JobSet's exclusive placement keeps the pods of one job (one slice of the run)
together in one node pool, apart from other jobs.

GPUs of several hosts use the fast network of their machine only in a run that requests it (`accelerator.network:
gpuDirect`), in an installation that allows it. Its pods get directories of the node (read-only where the fabric allows
it), and for TCPX and TCPXO a sidecar that runs as root with a few capabilities. The trainer's own container stays
restricted. The sidecar is an init container that keeps running, so that it ends with the trainer.

In other clusters, `accelerator.fabric` names a network (`halcyon_api.spec.fabric`) whose settings take the place of
GKE's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from halcyon_api import names
from halcyon_api.hardware import PROVISIONING_LABELS
from halcyon_api.hardware.gpu import LIBRARIES
from halcyon_api.hardware.kinds import Accelerator, Fabric, HostPath, Sidecar
from halcyon_api.hardware.machines import pod_cpus, pod_memory_gib
from halcyon_api.memory import offloaded_bytes
from halcyon_api.mesh import run_mesh
from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.spec.fabric import ClusterFabric
from halcyon_api.spec.scheduling import SchedulingSpec, TolerationSpec
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.decision import Manifest, Texts
from halcyon_operator.model.settings import NO_MEMORY, Settings

HOSTNAME_LABEL = "kubernetes.io/hostname"
NODE_POOL_LABEL = "cloud.google.com/gke-nodepool"
TOPOLOGY_LABEL = "cloud.google.com/gke-tpu-topology"
RESERVATION_LABEL = "cloud.google.com/reservation-name"
RESERVATION_PROJECT_LABEL = "cloud.google.com/reservation-project"
EXCLUSIVE_TOPOLOGY_ANNOTATION = "alpha.jobset.sigs.k8s.io/exclusive-topology"
MEGASCALE_PORT = 8080
"""Port on which the first host of slice 0 coordinates transfers between slices."""
TPU_PROCESS_PORT = 8471
"""Port on which the TPU runtimes of a slice communicate."""
TPU_METRICS_PORT = 8431
"""Port on which libtpu serves metrics of the chips."""
COMPUTE_DOMAIN_CLAIM = "compute-domain"
SHM_SHARE = 4
"""Divisor: the shared memory of a host's devices is limited to a quarter of the pod's memory, and is part of it."""
INTERFACES_ANNOTATION = "networking.gke.io/interfaces"
DEFAULT_INTERFACE_ANNOTATION = "networking.gke.io/default-interface"
DEVICES_ANNOTATION = "devices.gke.io/container."
SOCKETS_VOLUME = "fabric-sockets"
SIDECAR_CPUS = "1"
"""CPUs that the sidecar of a fabric requests, so that the trainer cannot starve what moves its data."""


@dataclass(frozen=True)
class NodeRequirements:
    """Requirements of a run's pods on their nodes: labels, tolerations, resources, volumes and environment."""

    node_selector: Texts
    tolerations: list[Texts]
    resources: dict[str, Texts]
    jobset_annotations: Texts
    affinity: Manifest
    pod_annotations: Texts
    environment: Texts
    volumes: list[Manifest]
    mounts: list[Manifest]
    sidecars: list[Manifest]
    resource_claims: list[Manifest]


def node_requirements(
    spec: TrainingRunSpec,
    avoided: Sequence[str],
    settings: Settings,
    unpreferred: Sequence[str] = (),
) -> NodeRequirements:
    """The requirements of a run's pods.

    Args:
        spec: The run's spec.
        avoided: Names of nodes that the pods must not use.
        settings: The owner's: the memory of pods whose run sets none, and the fabrics.
        unpreferred: Names of nodes that the pods use only where no other node has room.
    """
    accelerator = spec.accelerator
    row, shape = accelerator.row, accelerator.row.shape(accelerator.topology)
    if shape is None:
        raise ValueError(f"{accelerator.type} has no topology {accelerator.topology}")
    fabric = ClusterFabric()
    if accelerator.fabric is not None:
        fabric = settings.trainer_pods.all_fabrics()[accelerator.fabric]
        row, shape = _elsewhere(row, fabric), replace(shape, machine_size=None)
    wanted = accelerator.host_resources
    known = f"{pod_memory_gib(row, shape, offloaded_bytes(spec, run_mesh(spec)))}Gi"
    further = dict(fabric.resources)
    cpus, usual = further.pop("cpu", None) or pod_cpus(row, shape), further.pop("memory", None) or known
    memory = wanted.memory or settings.pod_memory.get(accelerator.type) or usual
    asked = {"cpu": wanted.cpu, "memory": memory, "ephemeral-storage": wanted.ephemeral_storage}
    amounts = further | {name: amount for name, amount in asked.items() if amount is not None and amount != NO_MEMORY}
    if row.resource:
        amounts[row.resource] = str(shape.chips_per_host)
    fast = row.fabric if accelerator.network == "gpuDirect" else None
    volumes, mounts = (_fabric_volumes(fast), _mounts(fast, fast.host_paths)) if fast else ([], [])
    if row.memory_backed_shm:
        limit = f"{max(1, pod_memory_gib(row, shape) // SHM_SHARE)}Gi"
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": limit}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 a mount point inside the pod
    claims = {f"fabric-{number}": template for number, template in enumerate(fabric.resource_claims)}
    if accelerator.compute_domain is not None:
        claims[COMPUTE_DOMAIN_CLAIM] = accelerator.compute_domain
    together = fabric.slice_label or (NODE_POOL_LABEL if row.pool_is_slice else "")
    return NodeRequirements(
        node_selector=_selector(accelerator, row, spec.scheduling),
        tolerations=_tolerations(accelerator, row, (*fabric.tolerations, *spec.scheduling.tolerations)),
        resources={"requests": {"cpu": cpus} | amounts} | ({"limits": amounts} if amounts else {}),
        jobset_annotations={EXCLUSIVE_TOPOLOGY_ANNOTATION: together} if together and shape.hosts > 1 else {},
        affinity=_avoiding(avoided, unpreferred),
        pod_annotations=_fabric_annotations(fast) if fast else fabric.annotations,
        environment=row.environment | (fast.environment if fast else {}),
        volumes=volumes,
        mounts=mounts,
        sidecars=[_sidecar(fast, fast.sidecar)] if fast and fast.sidecar else [],
        resource_claims=[{"name": name, "resourceClaimTemplateName": template} for name, template in claims.items()],
    )


def _elsewhere(row: Accelerator, fabric: ClusterFabric) -> Accelerator:
    """A row of the table without what it says about GKE."""
    return replace(
        row,
        node_labels=fabric.node_selector,
        tolerated_taints=((row.resource, ""),),
        environment=fabric.variables,
        pool_is_slice=False,
    )


def _selector(accelerator: AcceleratorSpec, row: Accelerator, scheduling: SchedulingSpec) -> Texts:
    """Labels of the nodes. Labels that the accelerator requires override those of the user."""
    labels = {**scheduling.node_selector, **row.node_labels}
    if accelerator.row.family == "tpu":
        labels[TOPOLOGY_LABEL] = accelerator.topology
    if (label := PROVISIONING_LABELS.get(accelerator.provisioning)) is not None:
        labels[label] = "true"
    if accelerator.reservation is not None:
        labels[RESERVATION_LABEL] = accelerator.reservation
    if accelerator.reservation_project is not None:
        labels[RESERVATION_PROJECT_LABEL] = accelerator.reservation_project
    return labels


def _tolerations(accelerator: AcceleratorSpec, row: Accelerator, further: Sequence[TolerationSpec]) -> list[Texts]:
    taints = list(row.tolerated_taints)
    if (label := PROVISIONING_LABELS.get(accelerator.provisioning)) is not None:
        taints.append((label, "true"))
    own = [_toleration(key, value or None, "NoSchedule") for key, value in taints]
    return own + [_toleration(taint.key, taint.value, taint.effect) for taint in further]


def _toleration(key: str, value: str | None, effect: str | None) -> Texts:
    matches = {"operator": "Exists"} if value is None else {"operator": "Equal", "value": value}
    return {"key": key, **matches} | ({"effect": effect} if effect is not None else {})


def _avoiding(nodes: Sequence[str], unpreferred: Sequence[str]) -> Manifest:
    """The affinity of pods that must not use some nodes, and should not use others."""

    def without(names: Sequence[str]) -> Manifest:
        return {"matchExpressions": [{"key": HOSTNAME_LABEL, "operator": "NotIn", "values": sorted(names)}]}

    rules: Manifest = {}
    if nodes:
        rules["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": [without(nodes)]}
    if unpreferred:
        best = {"weight": 100, "preference": without(unpreferred)}
        rules["preferredDuringSchedulingIgnoredDuringExecution"] = [best]
    return {"nodeAffinity": rules} if rules else {}


def multislice_environment(
    accelerator: AcceleratorSpec, hosts_per_slice: int, hostnames: list[str], coordinator: str
) -> list[Manifest]:
    """Variables by which libtpu finds the other slices; none for one slice.

    Args:
        accelerator: The accelerator section.
        hosts_per_slice: Hosts of one slice.
        hostnames: DNS names of the hosts of the pod's own slice, with ``$(HALCYON_JOB_INDEX)`` for the slice.
        coordinator: DNS name of the first host of slice 0.
    """
    if accelerator.row.family != "tpu" or accelerator.slices == 1:
        return []
    variables: list[Manifest] = [
        {"name": "MEGASCALE_NUM_SLICES", "value": str(accelerator.slices)},
        {"name": "MEGASCALE_SLICE_ID", **from_pod(names.JOBSET_JOB_INDEX)},
        {"name": "MEGASCALE_COORDINATOR_ADDRESS", "value": coordinator},
        {"name": "MEGASCALE_PORT", "value": str(MEGASCALE_PORT)},
        {"name": "TPU_WORKER_ID", **from_pod(names.JOB_COMPLETION_INDEX)},
    ]
    if accelerator.row.process_addresses:
        variables += [
            {"name": "TPU_PROCESS_ADDRESSES", "value": ",".join(f"{host}:{TPU_PROCESS_PORT}" for host in hostnames)},
            {"name": "TPU_PROCESS_PORT", "value": str(TPU_PROCESS_PORT)},
        ]
    elif hosts_per_slice > 1:
        variables.append({"name": "TPU_WORKER_HOSTNAMES", "value": ",".join(hostnames)})
    return variables


def from_pod(annotation: str) -> Manifest:
    """A variable's value from an annotation of the pod itself."""
    return {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{annotation}']"}}}


def _fabric_annotations(fabric: Fabric) -> Texts:
    """Annotations of the pod: its networks, and the device files of its sidecar."""
    interfaces = [
        {"interfaceName": name, "network": network} for name, network in (("eth0", "default"), *fabric.interfaces)
    ]
    found = {DEFAULT_INTERFACE_ANNOTATION: "eth0", INTERFACES_ANNOTATION: json.dumps(interfaces)}
    if fabric.sidecar is not None:
        found[DEVICES_ANNOTATION + fabric.sidecar.name] = "".join(
            f"- path: {path}\n" for path in fabric.sidecar.devices
        )
    return found


def _fabric_volumes(fabric: Fabric) -> list[Manifest]:
    """Volumes of the pod."""
    paths = {path.name: path for path in (*fabric.host_paths, *(fabric.sidecar.host_paths if fabric.sidecar else ()))}
    found: list[Manifest] = [
        {"name": path.name, "hostPath": {"path": path.path, "type": "Directory"}} for path in paths.values()
    ]
    return found + ([{"name": SOCKETS_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}}] if fabric.socket_directory else [])


def _sidecar(fabric: Fabric, sidecar: Sidecar) -> Manifest:
    return {
        "name": sidecar.name,
        "image": sidecar.image,
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": list(sidecar.command),
        "env": [{"name": "LD_LIBRARY_PATH", "value": LIBRARIES}],
        "resources": {"requests": {"cpu": SIDECAR_CPUS}},
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": list(sidecar.capabilities)},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": _mounts(fabric, sidecar.host_paths),
    }


def _mounts(fabric: Fabric, paths: tuple[HostPath, ...]) -> list[Manifest]:
    found: list[Manifest] = [
        {"name": path.name, "mountPath": path.mount_path} | ({"readOnly": True} if path.read_only else {})
        for path in paths
    ]
    return found + ([{"name": SOCKETS_VOLUME, "mountPath": fabric.socket_directory}] if fabric.socket_directory else [])
