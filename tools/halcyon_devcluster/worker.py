"""A further node of a native cluster, for tests in which a run loses or avoids a node.

It has a containerd and a kubelet of its own, in the namespaces of the first node, so one host link and one kube-proxy
serve both. It has a control group of its own too: a kubelet ends each pod below its group that it does not know.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from ipaddress import IPv4Network
from pathlib import Path

from halcyon_devcluster import components, node_config, pki
from halcyon_devcluster.addresses import Addresses
from halcyon_devcluster.cgroups import ControlGroup
from halcyon_devcluster.commands import run
from halcyon_devcluster.containerd import Ctr
from halcyon_devcluster.files import delete, write_document
from halcyon_devcluster.kubectl import Kubectl
from halcyon_devcluster.loading import load_image
from halcyon_devcluster.namespaces import enter
from halcyon_devcluster.paths import Paths
from halcyon_devcluster.processes import Processes
from halcyon_devcluster.progress import ProgressView
from halcyon_devcluster.waiting import until

_CONTAINERD = Path("/usr/bin/containerd")


def worker_group(cluster: Paths) -> ControlGroup:
    """The control group of the further node. No cluster can have its name, because names of clusters have no dots."""
    return ControlGroup(f"{cluster.name}.worker")


@dataclass(frozen=True)
class Worker:
    """The further node.

    Attributes:
        cluster: The folders of the cluster.
        block: The cluster's block of addresses.
        anchor: Process id of the anchor of its namespaces.
        kubelet: The kubelet's program.
        pause: Name of the image of sandboxes.
        kubectl: kubectl against the cluster.
        progress: Shows what is done.
        most_pods: The number of pods that the node takes.
    """

    cluster: Paths
    block: IPv4Network
    anchor: int
    kubelet: Path
    pause: str
    kubectl: Kubectl
    progress: ProgressView
    most_pods: int

    @property
    def name(self) -> str:
        """Name of the node."""
        return f"{self.cluster.name}-2"

    @cached_property
    def _paths(self) -> Paths:
        return Paths(self.name, self.cluster.cache, self.cluster.state / "worker")

    @cached_property
    def _group(self) -> ControlGroup:
        return worker_group(self.cluster)

    @cached_property
    def _processes(self) -> Processes:
        return Processes(self._paths.records, self._paths.logs)

    def up(self, images: Sequence[str]) -> None:
        """Make the node, with images, and wait until it is Ready.

        Args:
            images: The images that its pods need, as `NativeCluster.load` takes them.
        """
        paths, addresses = self._paths, Addresses(self.name, self.block, number=1)
        with self.progress.step(f"Starting the node {self.name}"):
            self._group.create()
            paths.pki.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copy(self.cluster.pki / "ca.crt", paths.pki)
            now = datetime.now(UTC)
            pki.issue(self.cluster.pki, paths.pki, pki.of_node(addresses), now)
            pki.write_kubeconfig(paths.pki / "node.kubeconfig", paths.pki, "node", addresses.api_url, self.cluster.name)
            documents = node_config.documents(paths, addresses, self._group.name, self.pause)
            settings = node_config.kubelet(paths, addresses, self._group.name, most_pods=self.most_pods)
            for path, document in {**documents, paths.config / "kubelet.yaml": settings}.items():
                write_document(path, document)
            self._start("containerd", _CONTAINERD, addresses)
            self._await(self.ctr.answers, "containerd")
            for image in (self.pause, *images):
                load_image(self.ctr, image, self.cluster.images, self.progress)
            self._start("kubelet", self.kubelet, addresses)
            self._await(lambda: self.kubectl.node_ready(self.name, now), "kubelet")

    @property
    def ctr(self) -> Ctr:
        """The client of the node's containerd."""
        return Ctr.on_socket(self._paths.containerd_socket)

    @contextmanager
    def kubelet_frozen(self) -> Iterator[None]:
        """Stop the kubelet with SIGSTOP during the block; waits at the end until the node is Ready again."""
        self._processes.send("kubelet", signal.SIGSTOP)
        try:
            yield
        finally:
            since = datetime.now(UTC)
            self._processes.send("kubelet", signal.SIGCONT)
            self._await(lambda: self.kubectl.node_ready(self.name, since), "kubelet")

    @contextmanager
    def cut_off(self, address: str) -> Iterator[None]:
        """Drop all packets from and to a pod during the block, as a cable that is pulled does: nobody gets an error."""
        rules = [["FORWARD", side, address, "--jump", "DROP"] for side in ("--source", "--destination")]
        for rule in rules:
            run(enter(self.anchor, ["iptables", "--wait", "--insert", *rule]))
        try:
            yield
        finally:
            for rule in rules:
                run(enter(self.anchor, ["iptables", "--wait", "--delete", *rule]))

    def down(self) -> None:
        """Delete the node and its pods, and end its processes."""
        self.kubectl("delete", "node", self.name, "--ignore-not-found")
        self._processes.stop("kubelet", force=True)
        if self._processes.running("containerd") and self.ctr.answers():
            self.ctr.remove_all_containers()
            self._processes.stop("containerd")
        self._group.kill()
        self._group.remove()
        delete(self._paths.state)

    def _start(self, name: str, program: Path, addresses: Addresses) -> None:
        command = components.command(name, program, self._paths, addresses)
        environ = components.environment(os.environ)
        self._processes.start(name, enter(self.anchor, command), self._group.members_file, environ)

    def _await(self, condition: Callable[[], bool], name: str) -> None:
        log = self._paths.logs / f"{name}.log"
        until(condition, timeout_seconds=90, failure=lambda: f"{name} does not become ready: see {log}.")
