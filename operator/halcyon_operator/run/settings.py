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
    """Runs that are looked at in parallel."""
    probe_priority_class: str = ""
    """PriorityClass of probe pods; empty: the cluster's default."""
    s3_endpoints: tuple[str, ...] = ()
    """The S3 endpoints that runs may name, with their scheme; empty: none, so that only AWS itself is used."""
    s3_anonymous: bool = False
    """Send unsigned S3 requests."""
    file_roots: tuple[str, ...] = ()
    """Directories mounted here under which file:// roots may be read."""
    allow_gpu_direct: bool = False
    """Let runs use directories of their node and a sidecar that runs as root, for the fast network of their GPUs."""
    pods: PodPolicy = field(default_factory=PodPolicy)
    """The owner's settings for the pods of runs."""
    pod_memory: tuple[tuple[str, str], ...] = ()
    """Accelerator types and the memory that their pods request if a run names none; `none`: no memory."""
    stuck_pod_seconds: float = 300.0
    """Seconds after its grace period from which a pod that still exists counts as stuck."""
    force_delete_stuck_pods: bool = False
    """Delete stuck pods by force."""
    watch_nodes: bool = False
    """Read maintenance notices of nodes; needs the right to list and watch nodes."""
    kueue: bool = False
    """Let runs use queues of Kueue, and show why they wait; needs the right to list Workloads."""
    lease_namespace: str = ""
    """Namespace of the Lease that selects the leader; empty: there is only one operator."""
    lease_name: str = "halcyon-operator"
    """Name of the Lease."""
    pod_name: str = ""
    """Name of the pod that this process runs in; empty: it runs in none."""
    defaults_namespace: str = ""
    """Where the TrainingRunDefaults of all namespaces are; empty: there are none."""
    resync_seconds: float = 300.0
    """Seconds between two looks at all runs without an event."""
