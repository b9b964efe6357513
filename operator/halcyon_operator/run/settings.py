"""The operator's own settings, from flags and environment variables."""

from __future__ import annotations

from dataclasses import dataclass, field

from halcyon_operator.model.pod_policy import PodPolicy


@dataclass(frozen=True)
class Settings:
    """How one operator runs."""

    trainer_image: str
    """Image of runs that name none."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty: all."""
    cluster_domain: str = "cluster.local"
    """DNS domain of the cluster."""
    metrics_port: int = 9401
    """Port of /metrics, /healthz and /readyz."""
    workers: int = 8
    """Runs looked at at the same time."""
    probe_priority_class: str = ""
    """PriorityClass of pods that look for room for more slices; empty: the cluster's default."""
    s3_endpoints: tuple[str, ...] = ()
    """The S3 endpoints that runs may name, with their scheme; empty: none, so that only AWS itself is used."""
    s3_anonymous: bool = False
    """Send unsigned S3 requests."""
    file_roots: tuple[str, ...] = ()
    """Directories mounted here under which file:// roots may be read."""
    allow_gpu_direct: bool = False
    """Let runs use directories of their node and a sidecar that runs as root, for the fast network of their GPUs."""
    pods: PodPolicy = field(default_factory=PodPolicy)
    """What the owner gives to the pods of runs."""
    pod_memory: tuple[tuple[str, str], ...] = ()
    """Accelerator types and what their pods ask for where a run says nothing; `none`: no memory."""
    stuck_pod_seconds: float = 300.0
    """A pod that is still there so long after its grace period does not end by itself."""
    force_delete_stuck_pods: bool = False
    """Delete such pods by force."""
    watch_nodes: bool = False
    """Look for what nodes say about their end; needs the right to list and watch nodes."""
    kueue: bool = False
    """Let runs wait in queues of Kueue, and tell what for; needs the right to list Workloads."""
    lease_namespace: str = ""
    """Where the Lease is by which one of several operators leads; empty: there is only this one."""
    lease_name: str = "halcyon-operator"
    """Name of the Lease."""
    pod_name: str = ""
    """Name of the pod that this process runs in; empty: it runs in none."""
    defaults_namespace: str = ""
    """Where the TrainingRunDefaults of all namespaces are; empty: there are none."""
    resync_seconds: float = 300.0
    """How often all runs are looked at without a reason."""
