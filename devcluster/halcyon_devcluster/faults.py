"""Faults made for real: what tests and the demo do to a cluster to see that nothing is lost.

Each function returns when the fault has happened, not when its effects are over; waiting for those is the caller's subject.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from halcyon_devcluster.cluster import Cluster
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.waiting import until

_BACK_SECONDS = 90


@dataclass(frozen=True)
class Faults:
    """The faults that can be made in one cluster."""

    cluster: Cluster

    def stop_apiserver(self) -> None:
        """Stop the API server: running pods go on, nothing can be read or changed."""
        self.cluster.stop_component("kube-apiserver")

    def start_apiserver(self) -> None:
        """Start the API server again and return when it is ready."""
        self.cluster.start_component("kube-apiserver")
        until(
            self.cluster.kubectl.api_ready,
            timeout_seconds=_BACK_SECONDS,
            failure=lambda: "The API server was started again and does not become ready.",
        )

    @contextmanager
    def apiserver_down(self) -> Iterator[None]:
        """Have no API server inside the block."""
        self.stop_apiserver()
        try:
            yield
        finally:
            self.start_apiserver()

    def stop_kubelet(self) -> None:
        """Stop the kubelet: its pods go on, but nobody reports, starts or stops them; the node is NotReady after some 20 s."""
        self.cluster.stop_component("kubelet")

    def start_kubelet(self) -> None:
        """Start the kubelet again and return when its node is Ready by a new report."""
        since = datetime.now(UTC)
        self.cluster.start_component("kubelet")
        self._await_node(since)

    def _await_node(self, since: datetime) -> None:
        node = self.cluster.kubectl("get", "nodes", "--output=jsonpath={.items[0].metadata.name}")
        until(
            lambda: self.cluster.kubectl.node_ready(node, since),
            timeout_seconds=_BACK_SECONDS,
            failure=lambda: "The kubelet runs again and its node does not become Ready.",
        )

    @contextmanager
    def kubelet_down(self) -> Iterator[None]:
        """Have no kubelet inside the block."""
        self.stop_kubelet()
        try:
            yield
        finally:
            self.start_kubelet()

    @contextmanager
    def kubelet_frozen(self) -> Iterator[None]:
        """Have a kubelet that does nothing inside the block, as on a node that hangs; the node is Ready again afterwards."""
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
        said = self.cluster.kubectl("get", "nodes", f"--output=jsonpath={path}").split()
        return bool(said) and set(said) == {"True"}

    def kill_container(self, namespace: str, pod: str, container: str | None = None) -> None:
        """SIGKILL the main process of a pod's container, as the kernel does when memory runs out.

        Args:
            namespace: The pod's namespace.
            pod: The pod's name.
            container: Which one; may be left out where the pod has one container.

        Raises:
            DevclusterError: no such container runs, or the pod has several and none was named.
        """
        ctr = self.cluster.ctr
        ids = set(ctr.containers(namespace, pod, container))
        running = [task.container for task in ctr.tasks() if task.container in ids and task.status == "RUNNING"]
        if len(running) != 1:
            which = f"container {container!r} of pod {namespace}/{pod}" if container else f"pod {namespace}/{pod}"
            raise DevclusterError(f"{which} has {len(running)} running containers, one was wanted: name a container that runs.")
        ctr.kill(running[0])

    def evict(self, namespace: str, pod: str, grace_seconds: int | None = None) -> None:
        """Evict a pod through the Eviction API, as a drain does: the pod gets the DisruptionTarget condition and SIGTERM."""
        options = {} if grace_seconds is None else {"deleteOptions": {"gracePeriodSeconds": grace_seconds}}
        eviction: dict[str, Any] = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
            **options,
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
        self.cluster.kubectl("create", "--raw", path, "--filename=-", stdin=json.dumps(eviction))
