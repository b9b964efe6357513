"""What a development cluster can do, whichever way it is made; and how to get hold of one."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from halcyon_devcluster.containerd import Ctr
from halcyon_devcluster.engine import Backend, choose, docker_answers
from halcyon_devcluster.kubectl import Kubectl
from halcyon_devcluster.paths import DEFAULT_NAME, Paths, cluster_paths
from halcyon_devcluster.progress import QUIET, Progress


@dataclass(frozen=True)
class ComponentStatus:
    """One row of the status table.

    Attributes:
        name: The component.
        ready: Whether it does its work.
        detail: Process id, reason or address, for the reader.
        version: Where it has one.
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
        """Whether everything does its work."""
        return bool(self.components) and all(component.ready for component in self.components)


class Cluster(Protocol):
    """A development cluster. All methods wait for conditions and raise DevclusterError with one sentence."""

    paths: Paths
    backend: Backend

    def up(self) -> None:
        """Make the cluster, or complete it; returns when the node is Ready and JobSets can be created."""
        ...

    def down(self, *, purge: bool = False) -> None:
        """Take the cluster down; `purge` also drops the image content that is otherwise kept for the next `up`."""
        ...

    def status(self) -> ClusterStatus:
        """Look at every component."""
        ...

    def load(self, image: str) -> str:
        """Make an image (name, or path of an archive) usable by pods and return its full name."""
        ...

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        ...

    @property
    def kubectl(self) -> Kubectl:
        """kubectl against this cluster."""
        ...

    @property
    def ctr(self) -> Ctr:
        """The client of the node's containerd."""
        ...

    def stop_component(self, name: str) -> None:
        """Stop `kube-apiserver` or `kubelet` and return when it has stopped."""
        ...

    def start_component(self, name: str) -> None:
        """Start what `stop_component` stopped; does not wait until it answers."""
        ...


def open_cluster(
    name: str = DEFAULT_NAME,
    *,
    progress: Progress = QUIET,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
) -> Cluster:
    """Return the cluster called `name`, made or yet to be made, with the backend that this machine allows.

    Raises:
        DevclusterError: this machine allows none, or a setting in the environment is wrong.
    """
    import sys

    paths = cluster_paths(name, environ, home or Path.home())
    requested = environ.get("HALCYON_BACKEND")
    backend = choose(
        docker=not requested and docker_answers(),
        is_linux=sys.platform == "linux",
        is_root=os.geteuid() == 0,
        requested=requested,
    )
    if backend is Backend.KIND:
        from halcyon_devcluster.kind import KindCluster

        return KindCluster(paths, progress)
    from halcyon_devcluster.native import NativeCluster

    return NativeCluster(paths, progress)
