"""The operator's own settings, from flags and environment variables."""

from __future__ import annotations

from dataclasses import dataclass, field

from halcyon_operator.model.pod_policy import PodPolicy


@dataclass(frozen=True)
class Settings:
    """Settings of one operator process."""

    trainer_image: str
    """Image of runs that set none."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty: all."""
    cluster_domain: str = "cluster.local"
    """DNS domain of the cluster."""
    metrics_port: int = 9401
    """Port of /metrics, /healthz and /readyz."""
    workers: int = 8
    """Number of runs that are reconciled in parallel."""
    probe_priority_class: str = ""
    """PriorityClass of probe pods; empty: the cluster's default."""
    s3_endpoints: tuple[str, ...] = ()
    """The S3 endpoints that runs may use, with their scheme; empty: none, so that only AWS itself is used."""
    s3_anonymous: bool = False
    """Send unsigned S3 requests."""
    file_roots: tuple[str, ...] = ()
    """Directories mounted here under which file:// roots may be read."""
    allow_gpu_direct: bool = False
    """Let runs use directories of their node and a sidecar that runs as root, for the fast network of their GPUs."""
    pods: PodPolicy = field(default_factory=PodPolicy)
    """The owner's settings for the pods of runs."""
    pod_memory: tuple[tuple[str, str], ...] = ()
    """Accelerator types and the memory that their pods request if a run sets none; `none`: no memory."""
    stuck_pod_seconds: float = 300.0
    """Seconds after its grace period from which a pod that still exists counts as stuck."""
    force_delete_stuck_pods: bool = False
    """Delete stuck pods by force."""
    watch_nodes: bool = False
    """Read maintenance notices of nodes; needs the right to list and watch nodes."""
    kueue: bool = False
    """Let runs use Kueue queues, and show why they wait; needs the right to list Workloads."""
    lease_namespace: str = ""
    """Namespace of the Lease that selects the leader; empty: there is only one operator."""
    lease_name: str = "halcyon-operator"
    """Name of the Lease."""
    pod_name: str = ""
    """Name of the pod of this process; empty: the process is not in a pod."""
    defaults_namespace: str = ""
    """Namespace of the TrainingRunDefaults for all namespaces; empty: there are none."""
    resync_seconds: float = 300.0
    """Seconds between two reconciles of all runs without an event."""
