"""The pod template of a trainer: the restricted security profile, the injected environment, the probes and the mounts.

Pure.
"""

from kubernetes.utils.quantity import parse_quantity  # pyright: ignore[reportUnknownVariableType]

from halcyon_api import names
from halcyon_api.environment import COMPLETION_INDEX, FROM_POD, JOB_INDEX, RESTART, PodEnvironment
from halcyon_api.mesh import run_mesh
from halcyon_api.spec.checkpoint import credential_names, parse_root
from halcyon_api.spec.variables import VariableSpec
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.decision import JobSetPlan, Manifest, Texts
from halcyon_operator.model.settings import PodSecurity
from halcyon_operator.model.views import RunView
from halcyon_operator.objects import hardware, owned_pods

TMP_SIZE_LIMIT = "32Gi"
CACHE_SIZE_LIMIT = "64Gi"
"""Limit for compiled programs and cached files.

A pod that writes more is evicted, so that it cannot fill the node's disk.
"""
MEMORY_SHARE = 2
"""Divisor: snapshots take at most half of the pod's memory. The kernel rejects a write beyond that, and ends no
process."""
TERMINATION_LOG = "/dev/termination-log"

_SOURCES = {
    JOB_INDEX: names.JOBSET_JOB_INDEX,
    COMPLETION_INDEX: names.JOB_COMPLETION_INDEX,
    RESTART: names.JOBSET_RESTART,
}
"""The pod annotation that each variable is read from."""

_STARTUP_PERIOD_SECONDS = 2
_STARTUP_FAILURES = 150
"""Startup limit: five minutes, for an image's first imports from a cold disk.

The trainer answers before it compiles or restores.
"""


SPOT_GRACE_SECONDS = 15
"""Grace period that GKE gives the pods of a reclaimed spot machine; a longer one in the pod has no effect."""


def grace_seconds(spec: TrainingRunSpec) -> int:
    """Seconds that a pod really has after its preemption notice."""
    asked = spec.recovery.grace_period_seconds
    return min(asked, SPOT_GRACE_SECONDS) if spec.accelerator.provisioning == "spot" else asked


def in_place(spec: TrainingRunSpec) -> bool:
    """Whether lost processes start again in their pods. Not without an allowed restart: the first one asks nobody."""
    return spec.recovery.in_place and spec.task == "train" and spec.recovery.max_restarts > 0


def leaves_node(spec: TrainingRunSpec) -> bool:
    """Whether a pod can leave its node alone: not where nodes of a slice belong together, or Kueue chooses them."""
    accelerator, queue = spec.accelerator, spec.scheduling.queue
    topology, tpu = accelerator.resolve(), accelerator.row.family == "tpu"
    apart = topology.processes > 1 and not (tpu and topology.hosts_per_slice > 1)
    return in_place(spec) and apart and (queue is None or queue.topology is None)


def keeps_in_memory(spec: TrainingRunSpec) -> bool:
    """Whether snapshots of the state lie in the pods' memory."""
    return in_place(spec) and spec.checkpoint.memory is not None


def pod_template(plan: JobSetPlan, labels: Texts, requirements: hardware.NodeRequirements) -> Manifest:
    """The template of all trainer pods of an attempt."""
    spec = plan.spec
    volumes, mounts = _volumes(plan.run, spec, plan.attempt)
    volumes, mounts = volumes + requirements.volumes, mounts + requirements.mounts
    if keeps_in_memory(spec):
        limit = requirements.resources.get("limits", {}).get("memory")
        size = {} if limit is None else {"sizeLimit": str(int(parse_quantity(limit)) // MEMORY_SHARE)}
        volumes.append({"name": "memory", "emptyDir": {"medium": "Memory"} | size})
        mounts.append({"name": "memory", "mountPath": names.MEMORY_DIRECTORY})
    affinity = requirements.affinity
    if leaves_node(spec):  # not onto the node of a guard of the run (`jobset.build_guard`)
        guards = {"matchLabels": {names.LABEL_ROLE: names.ROLE_GUARD, names.LABEL_RUN_UID: plan.run.uid}}
        term = {"labelSelector": guards, "topologyKey": hardware.HOSTNAME_LABEL}
        rule = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
        affinity = {**affinity, "podAntiAffinity": rule}
    pod: Manifest = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": spec.recovery.grace_period_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": owned_pods.pod_security(PodSecurity()) | owned_pods.volume_security(PodSecurity()),
        "containers": [_container(plan, requirements, mounts)],
        "volumes": volumes,
    }
    optional = {
        "initContainers": requirements.sidecars,
        "resourceClaims": requirements.resource_claims,
        "nodeSelector": requirements.node_selector,
        "tolerations": requirements.tolerations,
        "affinity": affinity,
        "priorityClassName": spec.scheduling.priority_class_name,
        "serviceAccountName": spec.scheduling.service_account_name,
    }
    annotations = {"annotations": requirements.pod_annotations} if requirements.pod_annotations else {}
    pod |= {name: value for name, value in optional.items() if value}
    template = {"metadata": {"labels": labels} | annotations, "spec": pod}
    return owned_pods.with_settings(template, plan)


def _container(plan: JobSetPlan, requirements: hardware.NodeRequirements, mounts: list[Manifest]) -> Manifest:
    spec = plan.spec
    ports = [
        {"name": "telemetry", "containerPort": spec.telemetry.port},
        {"name": "coordinator", "containerPort": names.COORDINATOR_PORT},
    ]
    environment = _environment(plan)
    own = {variable.name: variable for variable in spec.env}
    environment += [
        {"name": name, "value": value} for name, value in requirements.environment.items() if name not in own
    ]
    environment += [_variable(variable) for variable in own.values()]
    if in_place(spec):
        ports.append({"name": "agent", "containerPort": names.AGENT_PORT})
    if any(variable["name"] == "MEGASCALE_PORT" for variable in environment):
        ports.append({"name": "megascale", "containerPort": hardware.MEGASCALE_PORT})
    if spec.accelerator.row.family == "tpu":
        # GKE reads libtpu's metrics from this port by gRPC, and only if the pod declares the port.
        ports.append({"name": "tpu-metrics", "containerPort": hardware.TPU_METRICS_PORT})
    container: Manifest = {
        "name": names.TRAINER_CONTAINER,
        "image": spec.image or plan.settings.trainer_image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": ["halcyon-agent"] if in_place(spec) else ["halcyon", "train"],
        "args": [_document_path()],
        "env": environment,
        "ports": [port | {"protocol": "TCP"} for port in ports],
        "startupProbe": _probe() | {"periodSeconds": _STARTUP_PERIOD_SECONDS, "failureThreshold": _STARTUP_FAILURES},
        # A hung process cannot save, so it gets little time to end.
        "livenessProbe": _probe() | {"periodSeconds": 10, "failureThreshold": 6, "terminationGracePeriodSeconds": 10},
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": owned_pods.container_security(PodSecurity()),
        "volumeMounts": mounts,
    }
    claims = [{"name": claim["name"]} for claim in requirements.resource_claims]
    return container | {"resources": requirements.resources | ({"claims": claims} if claims else {})}


def _variable(variable: VariableSpec) -> Manifest:
    """A variable of the run. Its value is literal: `$(NAME)` in it is not expanded."""
    if variable.value is not None:
        return {"name": variable.name, "value": variable.value.replace("$(", "$$(")}
    return {
        "name": variable.name,
        "valueFrom": variable.value_from.document() if variable.value_from is not None else {},
    }


def _probe() -> Manifest:
    return {"httpGet": {"path": "/healthz", "port": "telemetry"}, "timeoutSeconds": 5}


def _environment(plan: JobSetPlan) -> list[Manifest]:
    run, spec, settings, attempt = plan.run, plan.spec, plan.settings, plan.attempt
    topology = spec.accelerator.resolve()
    subdomain = f"{names.subdomain(run.uid, attempt)}.{run.namespace}.svc.{settings.cluster_domain}"
    injected = PodEnvironment(
        run_document=_document_path(),
        run_uid=run.uid,
        namespace=run.namespace,
        attempt=attempt,
        restart=0,
        job_index=0,
        completion_index=0,
        slices=topology.slices,
        hosts_per_slice=topology.hosts_per_slice,
        devices_per_host=topology.devices_per_host,
        coordinator=names.coordinator_address(run.name, run.uid, attempt, run.namespace, settings.cluster_domain),
        mesh=run_mesh(spec, topology),
        resume_step=plan.resume_step,
        termination_log=TERMINATION_LOG,
        grace_seconds=grace_seconds(spec),
        save_token=plan.save_token,
        memory=names.MEMORY_DIRECTORY if keeps_in_memory(spec) else None,
        restarts_left=plan.remaining_restarts if in_place(spec) else None,
        leaves_node=1 if leaves_node(spec) else None,
    ).variables()
    # Variables from the pod come first, because later values may refer to them.
    variables: list[Manifest] = [{"name": name, **hardware.from_pod(_SOURCES[name])} for name in FROM_POD]
    variables += [{"name": name, "value": value} for name, value in injected.items() if name not in FROM_POD]
    if (secret := spec.checkpoint.credentials_secret) is not None:
        variables += [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": name}}}
            for name in credential_names(spec.checkpoint.root)
        ]
    own_slice = names.jobset_name(run.name, attempt) + f"-{names.REPLICATED_JOB}-$({JOB_INDEX})"
    hosts = [f"{own_slice}-{host}.{subdomain}" for host in range(topology.hosts_per_slice)]
    coordinator = f"{names.hostname(run.name, attempt, 0, 0)}.{subdomain}"
    return variables + hardware.multislice_environment(spec.accelerator, topology.hosts_per_slice, hosts, coordinator)


def _volumes(run: RunView, spec: TrainingRunSpec, attempt: int) -> tuple[list[Manifest], list[Manifest]]:
    """Volumes and mounts. The root file system is read-only, so all writable directories are volumes."""
    volumes: list[Manifest] = [
        {"name": "run", "configMap": {"name": names.jobset_name(run.name, attempt)}},
        {"name": "tmp", "emptyDir": {"sizeLimit": TMP_SIZE_LIMIT}},
        {"name": "cache", "emptyDir": {"sizeLimit": CACHE_SIZE_LIMIT}},
    ]
    mounts: list[Manifest] = [
        {"name": "run", "mountPath": names.RUN_DOCUMENT_DIRECTORY, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 a mount point inside the pod
        {"name": "cache", "mountPath": owned_pods.CACHE_DIRECTORY},
    ]
    if spec.checkpoint.volume_claim is not None:
        volumes.append({"name": "checkpoints", "persistentVolumeClaim": {"claimName": spec.checkpoint.volume_claim}})
        mounts.append({"name": "checkpoints", "mountPath": parse_root(spec.checkpoint.root).path})
    if spec.data.volume is not None:
        claim = {"claimName": spec.data.volume.claim, "readOnly": True}
        volumes.append({"name": "data", "persistentVolumeClaim": claim})
        mounts.append({"name": "data", "mountPath": spec.data.volume.mount_path, "readOnly": True})
    return volumes, mounts


def _document_path() -> str:
    return f"{names.RUN_DOCUMENT_DIRECTORY}/{names.RUN_DOCUMENT_KEY}"
