"""The interface of a development cluster, for both backends."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from halcyon_devcluster.containerd import Ctr
from halcyon_devcluster.engine import Backend
from halcyon_devcluster.kubectl import Kubectl
from halcyon_devcluster.paths import Paths


@dataclass(frozen=True)
class ComponentStatus:
    """One row of the status table.

    Attributes:
        name: The component.
        ready: Whether it works.
        detail: Process id, reason or address, for display.
        version: Its version; empty if not known.
    """

    name: str
    ready: bool
    detail: str = ""
    version: str = ""


@dataclass(frozen=True)
class ClusterStatus:
    """The state of a cluster at one moment."""

    backend: Backend
    components: tuple[ComponentStatus, ...]

    @property
    def ready(self) -> bool:
        """Whether there are components and all work."""
        return bool(self.components) and all(component.ready for component in self.components)


class Cluster(Protocol):
    """A development cluster.

    All methods wait for conditions, and raise DevclusterError with one sentence on failure.
    """

    paths: Paths
    backend: Backend

    def up(self) -> None:
        """Make the cluster, or start its missing components; returns when the node is Ready and JobSets can be
        created.
        """
        ...

    def down(self, *, purge: bool = False) -> None:
        """Take the cluster down; `purge` also deletes the image content that is otherwise kept for the next `up`."""
        ...

    def status(self) -> ClusterStatus:
        """Check every component."""
        ...

    def load(self, image: str) -> str:
        """Make an image (name, or path of an archive) usable by pods and return its full name."""
        ...

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.paths.kubeconfig

    @property
    def kubectl(self) -> Kubectl:
        """kubectl against this cluster."""
        return Kubectl(self.paths.tools / "kubectl", self.kubeconfig)

    @property
    def ctr(self) -> Ctr:
        """The client of the node's containerd."""
        ...

    def stop_component(self, name: str) -> None:
        """Stop `kube-apiserver` or `kubelet` and return when it has stopped."""
        ...

    def start_component(self, name: str) -> None:
        """Start a component that `stop_component` stopped; does not wait until it answers."""
        ...

    def freeze_kubelet(self) -> None:
        """Stop the kubelet with SIGSTOP: it keeps its connections and its memory, and does nothing."""
        ...

    def thaw_kubelet(self) -> None:
        """Continue the kubelet after `freeze_kubelet`."""
        ...
