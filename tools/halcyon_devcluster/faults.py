"""Real faults that tests and the demo inject into a cluster.

Each function returns when the fault has happened, not when its effects are over; the caller waits for those.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from halcyon_devcluster.cluster import Cluster
from halcyon_devcluster.containerd import Task
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.waiting import until

_BACK_SECONDS = 90


@dataclass(frozen=True)
class Faults:
    """Injects faults into one cluster."""

    cluster: Cluster

    def stop_apiserver(self) -> None:
        """Stop the API server: pods continue to run, no object can be read or changed."""
        self.cluster.stop_component("kube-apiserver")

    def start_apiserver(self) -> None:
        """Start the API server again and wait until it is ready."""
        self.cluster.start_component("kube-apiserver")
        until(
            self.cluster.kubectl.api_ready,
            timeout_seconds=_BACK_SECONDS,
            failure=lambda: "The API server was started again but does not become ready.",
        )

    @contextmanager
    def apiserver_down(self) -> Iterator[None]:
        """Stop the API server during the block."""
        self.stop_apiserver()
        try:
            yield
        finally:
            self.start_apiserver()

    def stop_kubelet(self) -> None:
        """Stop the kubelet: its pods continue to run, but are not reported, started or stopped; the node is NotReady
        after about 20 s.
        """
        self.cluster.stop_component("kubelet")

    def start_kubelet(self) -> None:
        """Start the kubelet again and wait until it has reported its node Ready."""
        since = datetime.now(UTC)
        self.cluster.start_component("kubelet")
        self._await_node(since)

    def _await_node(self, since: datetime) -> None:
        node = self.cluster.kubectl("get", "nodes", "--output=jsonpath={.items[0].metadata.name}")
        until(
            lambda: self.cluster.kubectl.node_ready(node, since),
            timeout_seconds=_BACK_SECONDS,
            failure=lambda: "The kubelet runs again but its node does not become Ready.",
        )

    @contextmanager
    def kubelet_down(self) -> Iterator[None]:
        """Stop the kubelet during the block."""
        self.stop_kubelet()
        try:
            yield
        finally:
            self.start_kubelet()

    @contextmanager
    def kubelet_frozen(self) -> Iterator[None]:
        """Freeze the kubelet during the block, as on a node that hangs; waits at the end until the node is Ready
        again.
        """
        self.cluster.freeze_kubelet()
        try:
            yield
        finally:
            since = datetime.now(UTC)
            self.cluster.thaw_kubelet()
            self._await_node(since)

    def node_ready(self) -> bool:
        """Whether every node is Ready."""
        path = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
        answers = self.cluster.kubectl("get", "nodes", f"--output=jsonpath={path}").split()
        return bool(answers) and set(answers) == {"True"}

    def kill_container(self, namespace: str, pod: str) -> None:
        """SIGKILL the main process of a pod's only container, like the kernel when memory runs out.

        Raises:
            DevclusterError: no container of the pod runs, or several do.
        """
        self.cluster.ctr.kill(self.main_process(namespace, pod).container)

    def main_process(self, namespace: str, pod: str) -> Task:
        """The main process of a pod's only container.

        Raises:
            DevclusterError: no container of the pod runs, or several do.
        """
        ctr = self.cluster.ctr
        ids = set(ctr.containers(namespace, pod))
        running = [task for task in ctr.tasks() if task.container in ids and task.status == "RUNNING"]
        if len(running) != 1:
            raise DevclusterError(f"pod {namespace}/{pod} has {len(running)} running containers, expected one.")
        return running[0]

    def evict(self, namespace: str, pod: str) -> None:
        """Evict a pod through the Eviction API, like a drain: the pod gets the DisruptionTarget condition and
        SIGTERM.
        """
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
        self.cluster.kubectl("create", "--raw", path, "--filename=-", stdin=json.dumps(eviction))
