"""kubectl against one cluster: the client that the cluster's own set-up and its tests share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from halcyon_devcluster.commands import run
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.machine import limit


@dataclass(frozen=True)
class Kubectl:
    """Calls kubectl with the cluster's kubeconfig.

    Attributes:
        program: Path of kubectl.
        kubeconfig: Path of the kubeconfig; the environment's KUBECONFIG plays no part.
        cache: Folder in which kubectl keeps what it has learned of the server; its own where None.
    """

    program: Path
    kubeconfig: Path
    cache: Path | None = None

    @property
    def command(self) -> list[str]:
        """The words with which each command line begins."""
        return [str(self.program), "--kubeconfig", str(self.kubeconfig), *(["--cache-dir", str(self.cache)] if self.cache else [])]

    def __call__(self, *arguments: str | Path, stdin: str | None = None, timeout_seconds: float | None = None) -> str:
        """Run kubectl and return its output; by default it has two minutes of the reference machine.

        Raises:
            DevclusterError: kubectl failed; the sentence carries its error text.
        """
        return run([*self.command, *arguments], stdin=stdin, timeout_seconds=limit(120) if timeout_seconds is None else timeout_seconds)

    def json(self, *arguments: str) -> Any:
        """Run a command with `--output=json` and return the parsed document."""
        return json.loads(self(*arguments, "--output=json"))

    def apply(self, documents: Sequence[Mapping[str, Any]], *arguments: str) -> str:
        """Apply plain documents on the server side, so that applying them again changes nothing."""
        text = yaml.safe_dump_all(list(documents))
        return self("apply", "--server-side", "--force-conflicts", "--filename=-", *arguments, stdin=text)

    def succeeds(self, *arguments: str, stdin: str | None = None) -> bool:
        """Whether the command ends with status 0 within ten seconds of the reference machine."""
        try:
            self(*arguments, stdin=stdin, timeout_seconds=limit(10))
        except DevclusterError:
            return False
        return True

    def api_ready(self) -> bool:
        """Whether the API server is ready; one that hangs, because its etcd is gone, is not."""
        return self.succeeds("get", "--raw=/readyz", _soon())

    def condition(self, kind: str, name: str, condition: str, namespace: str = "default") -> bool:
        """Whether the object exists and its condition is True."""
        path = f'{{.status.conditions[?(@.type=="{condition}")].status}}'
        try:
            said = self("get", kind, name, "--namespace", namespace, f"--output=jsonpath={path}", _soon())
        except DevclusterError:
            return False
        return said == "True"

    def node_ready(self, node: str, since: datetime) -> bool:
        """Whether a node is Ready by a report of its own that is not older than `since` (time-zone aware).

        The condition alone outlives a dead kubelet by the monitor's grace period; the node's lease says when it last spoke.
        """
        if not self.condition("node", node, "Ready"):
            return False
        where = ("--namespace", "kube-node-lease", "--ignore-not-found")
        lease = self("get", "lease", node, *where, "--output=jsonpath={.spec.renewTime}")
        return bool(lease) and datetime.fromisoformat(lease) >= since

    def pod_http(self, namespace: str, pod: str, port: int, path: str = "/") -> str:
        """GET a path from a pod's port through the API server, which works from any machine and in any kind of cluster."""
        return self("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path.lstrip('/')}")


def _soon() -> str:
    """The argument for questions to an API server that may hang: without its etcd it accepts requests and does not answer them."""
    return f"--request-timeout={limit(3)}s"
