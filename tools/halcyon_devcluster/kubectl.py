"""kubectl against one cluster, for the cluster's own set-up and for tests."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from halcyon_devcluster.commands import run
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.machine import limit
from halcyon_devcluster.waiting import until


@dataclass(frozen=True)
class Kubectl:
    """Calls kubectl with the cluster's kubeconfig.

    Attributes:
        program: Path of kubectl.
        kubeconfig: Path of the kubeconfig; KUBECONFIG in the environment is ignored.
        cache: Folder of kubectl's discovery cache; None: kubectl's default.
    """

    program: Path
    kubeconfig: Path
    cache: Path | None = None

    @property
    def command(self) -> list[str]:
        """The start of every command line: the program and its global options."""
        return [
            str(self.program),
            "--kubeconfig",
            str(self.kubeconfig),
            *(["--cache-dir", str(self.cache)] if self.cache else []),
        ]

    def __call__(self, *arguments: str | Path, stdin: str | None = None, timeout_seconds: float | None = None) -> str:
        """Run kubectl and return its output; the default timeout is two minutes of the reference machine.

        Raises:
            DevclusterError: kubectl failed; the sentence contains its error text.
        """
        return run(
            [*self.command, *arguments],
            stdin=stdin,
            timeout_seconds=limit(120) if timeout_seconds is None else timeout_seconds,
        )

    def json(self, *arguments: str) -> Any:
        """Run a command with `--output=json` and return the parsed document."""
        return json.loads(self(*arguments, "--output=json"))

    def apply(self, documents: Sequence[Mapping[str, Any]], *arguments: str) -> str:
        """Apply documents with server-side apply, so that applying them again changes nothing."""
        text = json.dumps(
            {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        )  # YAML of a large CRD takes a second
        return self("apply", "--server-side", "--force-conflicts", "--filename=-", *arguments, stdin=text)

    def succeeds(self, *arguments: str, stdin: str | None = None) -> bool:
        """Whether the command ends with status 0 within ten seconds of the reference machine."""
        try:
            self(*arguments, stdin=stdin, timeout_seconds=limit(10))
        except DevclusterError:
            return False
        return True

    def await_established(self, *definitions: str) -> None:
        """Wait until resource definitions can be used.

        `kubectl wait` alone fails for a definition so new that it has no conditions yet.

        Args:
            definitions: Their names, such as ``crd/jobsets.jobset.x-k8s.io``, or ``--filename=PATH``.
        """
        until(
            lambda: self.succeeds("wait", "--for=condition=Established", "--timeout=5s", *definitions),
            timeout_seconds=60,
            failure=lambda: f"{' '.join(definitions)} cannot be used after a minute.",
        )

    def api_ready(self) -> bool:
        """Whether the API server is ready; one that hangs because its etcd is down is not."""
        return self.succeeds("get", "--raw=/readyz", _short_timeout())

    def condition(self, kind: str, name: str, condition: str, namespace: str = "default") -> bool:
        """Whether the object exists and its condition is True."""
        path = f'{{.status.conditions[?(@.type=="{condition}")].status}}'
        try:
            answer = self("get", kind, name, "--namespace", namespace, f"--output=jsonpath={path}", _short_timeout())
        except DevclusterError:
            return False
        return answer == "True"

    def node_ready(self, node: str, since: datetime) -> bool:
        """Whether a node is Ready and its kubelet has renewed the node's lease since `since` (time-zone aware).

        The condition alone stays True after the kubelet's death for the monitor's grace period.
        """
        if not self.condition("node", node, "Ready"):
            return False
        where = ("--namespace", "kube-node-lease", "--ignore-not-found")
        lease = self("get", "lease", node, *where, "--output=jsonpath={.spec.renewTime}")
        return bool(lease) and datetime.fromisoformat(lease) >= since

    def pod_http(self, namespace: str, pod: str, port: int, path: str = "/") -> str:
        """GET a path from a pod's port through the API server's proxy, which works from any machine and with both
        backends.
        """
        return self("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{path.lstrip('/')}")


def _short_timeout() -> str:
    """Return the timeout option for requests to an API server that may hang: without its etcd it accepts requests but
    never answers.
    """
    return f"--request-timeout={limit(3)}s"
