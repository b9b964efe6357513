"""A cluster made by kind, on machines with a Docker engine: one container is the node.

kind contains Kubernetes, its network and CoreDNS. JobSet comes from its own chart with an image built here, as in a
native cluster. The components are static pods and systemd units inside the container, so one is stopped by moving its
manifest away or stopping its unit.
"""

import shutil
from pathlib import Path
from typing import Any

from halcyon_devcluster import addons, own_images, programs
from halcyon_devcluster.binaries import Binaries
from halcyon_devcluster.cluster import Cluster, ClusterStatus, ComponentStatus
from halcyon_devcluster.commands import run, succeeds
from halcyon_devcluster.containerd import Ctr
from halcyon_devcluster.engine import Backend
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.files import delete, link_tools, write_document
from halcyon_devcluster.loading import load_archive, load_from_docker, local_archive
from halcyon_devcluster.lock import exclusive
from halcyon_devcluster.machine import limit
from halcyon_devcluster.paths import Paths
from halcyon_devcluster.progress import ProgressView
from halcyon_devcluster.waiting import until

_MANIFESTS = "/etc/kubernetes/manifests"
_ASIDE = "/etc/kubernetes/stopped"
_STATIC_PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_UNITS = ("containerd", "kubelet")
_NETWORK = "kind"


def kind_config() -> dict[str, Any]:
    """Return kind's configuration document: one node that is both control plane and worker. Pure."""
    return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [{"role": "control-plane"}]}


def node_container(name: str) -> str:
    """Return the name that kind gives to the node's container. Pure."""
    return f"{name}-control-plane"


def component_command(name: str, *, start: bool) -> list[str]:
    """Return the command, run inside the node, that stops or starts a component. Pure.

    Raises:
        DevclusterError: there is no such component.
    """
    if name in _UNITS:
        return ["systemctl", "start" if start else "stop", name]
    if name in _STATIC_PODS:
        shown, hidden = f"{_MANIFESTS}/{name}.yaml", f"{_ASIDE}/{name}.yaml"
        source, target = (hidden, shown) if start else (shown, hidden)
        return ["sh", "-c", f"mkdir -p {_ASIDE} && if [ -e {source} ]; then mv {source} {target}; fi"]
    raise DevclusterError(f"There is no component {name!r}: it is one of {', '.join((*_STATIC_PODS, *_UNITS))}.")


class KindCluster(Cluster):
    """A single-node cluster in a Docker container."""

    backend = Backend.KIND

    def __init__(self, paths: Paths, progress: ProgressView) -> None:
        self.paths = paths
        self._progress = progress
        self._binaries = Binaries(paths.cache, progress)
        self._node = node_container(paths.name)

    @property
    def ctr(self) -> Ctr:
        """The client of the node's containerd."""
        return Ctr.in_docker(self._node)

    def up(self) -> None:
        """Make the cluster, or start its missing components."""
        with exclusive(self.paths.lock, self._progress):
            if self.status().ready and addons.jobset_answers(self.kubectl):
                self._progress.say(f"Cluster {self.paths.name} is up already (kind)")
                return
            self._binaries.provide((programs.KUBECTL, programs.HELM, programs.JOBSET))
            link_tools(
                self.paths.tools,
                kubectl=self._binaries.path(programs.KUBECTL, "kubectl"),
                helm=self._binaries.path(programs.HELM, "helm"),
            )
            image, archive = own_images.make(own_images.JOBSET, self._binaries, self.paths.images)
            self._create()
            load_archive(self.ctr, archive, self._progress)
            with self._progress.step("Installing JobSet"):
                chart = self._binaries.folder(programs.JOBSET) / "charts" / "jobset"
                values, log = addons.jobset_values(image), self.paths.logs / "helm.log"
                addons.install_jobset(self.paths.tools / "helm", self.kubeconfig, chart, values, log)
                addons.wait_for_dns(self.kubectl)
                addons.wait_for_jobset(self.kubectl)

    def down(self, *, purge: bool = False) -> None:
        """Take the cluster down; `purge` has no effect, because the image content is deleted with the node's
        container.
        """
        with exclusive(self.paths.lock, self._progress), self._progress.step(f"Taking cluster {self.paths.name} down"):
            if self._exists():
                run([self._kind(), "delete", "cluster", "--name", self.paths.name, "--kubeconfig", self.kubeconfig])
            succeeds(["docker", "network", "rm", _NETWORK])  # fails while another kind cluster uses it
            delete(self.paths.state)

    def status(self) -> ClusterStatus:
        """Check every component."""
        if not self.kubeconfig.is_file() or not (self.paths.tools / "kubectl").exists():
            return ClusterStatus(self.backend, ())
        kubectl = self.kubectl
        answers = kubectl.api_ready()
        rows = (
            ComponentStatus("node container", self._running(), self._node),
            ComponentStatus("API", answers),
            ComponentStatus("node Ready", answers and kubectl.condition("node", self._node, "Ready"), self._node),
            ComponentStatus("CoreDNS Available", answers and addons.dns_available(kubectl)),
            ComponentStatus(
                "JobSet Available",
                answers and addons.JOBSET.available(kubectl),
                "",
                self._binaries.version(programs.JOBSET),
            ),
        )
        return ClusterStatus(self.backend, rows)

    def load(self, image: str) -> str:
        """Make an image usable by pods."""
        if not self._running():
            raise DevclusterError(f"The cluster {self.paths.name} is not up: run `python -m halcyon_devcluster up`.")
        if archive := local_archive(image, self.paths.images):
            return load_archive(self.ctr, archive, self._progress)
        return load_from_docker(self.ctr, image, self._progress)

    def stop_component(self, name: str) -> None:
        """Stop one component and return when it has stopped."""
        self._inside(component_command(name, start=False))
        if name == "kube-apiserver":
            until(
                lambda: not self.kubectl.succeeds("get", "--raw=/livez"),
                timeout_seconds=60,
                failure=lambda: "The API server still answers after its manifest was moved away.",
            )

    def start_component(self, name: str) -> None:
        """Start one component again."""
        self._inside(component_command(name, start=True))

    def freeze_kubelet(self) -> None:
        """Send SIGSTOP to the kubelet."""
        self._inside(["systemctl", "kill", "--signal=SIGSTOP", "kubelet"])

    def thaw_kubelet(self) -> None:
        """Send SIGCONT to the kubelet."""
        self._inside(["systemctl", "kill", "--signal=SIGCONT", "kubelet"])

    def _create(self) -> None:
        if not self._exists():
            config = self.paths.config / "kind.yaml"
            write_document(config, kind_config())
            with self._progress.step("Creating the kind cluster (its node image is pulled once)"):
                command = [
                    "create",
                    "cluster",
                    "--name",
                    self.paths.name,
                    "--config",
                    config,
                    "--kubeconfig",
                    self.kubeconfig,
                ]
                run(
                    [self._kind(), *command, "--wait", f"{limit(180)}s"],
                    log=self.paths.logs / "kind.log",
                    timeout_seconds=limit(1200),
                )
            return
        if not self._running():
            run(["docker", "start", self._node])
        for component in (*_STATIC_PODS, *_UNITS):  # a test may have stopped one and not started it again
            self._inside(component_command(component, start=True))
        run([self._kind(), "export", "kubeconfig", "--name", self.paths.name, "--kubeconfig", self.kubeconfig])
        until(
            lambda: self.kubectl.condition("node", self._node, "Ready"),
            timeout_seconds=120,
            failure=lambda: f"The node {self._node} does not become Ready: see `docker logs {self._node}`.",
        )

    def _kind(self) -> Path:
        on_path = shutil.which("kind")
        return Path(on_path) if on_path else self._binaries.path(programs.KIND, "kind")

    def _exists(self) -> bool:
        return self.paths.name in run([self._kind(), "get", "clusters"]).split()

    def _running(self) -> bool:
        command = ["docker", "inspect", "--format", "{{.State.Running}}", self._node]
        return succeeds(command) and run(command).strip() == "true"

    def _inside(self, command: list[str]) -> None:
        run(["docker", "exec", self._node, *command])
