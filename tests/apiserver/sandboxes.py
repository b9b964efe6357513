"""Sandboxes for tests: the kinds of agent-sandbox, the objects of the example in namespaces of a test, and answers to
claims.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import kube_config

from halcyon.evals.sandbox.cluster import Cluster
from halcyon_demo.documents import EXAMPLES, load
from halcyon_devcluster.control_plane import ControlPlane
from halcyon_devcluster.waiting import until
from tests.apiserver.api import Api
from tests.apiserver.kubelet import NODE

Document = dict[str, Any]
EXAMPLE = EXAMPLES / "agent-sandbox" / "evaluate.yaml"
GROUP, SANDBOX_GROUP, VERSION = "extensions.agents.x-k8s.io", "agents.x-k8s.io", "v1beta1"
POOL, USER, RUNS, SANDBOXES = "programs", "evaluate-programs", "training", "sandboxes"
"""Names in the example."""


def kinds(source: Path) -> list[Document]:
    """The CRDs of agent-sandbox, without the webhook that converts older versions."""
    found = [yaml.safe_load(path.read_text()) for path in sorted((source / "k8s" / "crds").glob("*.yaml"))]
    for one in found:
        one["spec"]["conversion"] = {"strategy": "None"}
        del one["metadata"]["annotations"]
    return found


def example(runs: str, sandboxes: str) -> list[Document]:
    """The objects of the example, in other namespaces. The runtime class is left out: this cluster has none."""
    text = json.dumps([one for one in load(EXAMPLE) if one["kind"] != "Namespace"])
    for before, after in ((RUNS, runs), (SANDBOXES, sandboxes)):
        text = text.replace(f'"namespace": "{before}"', f'"namespace": "{after}"').replace(
            f"namespace={before}", f"namespace={after}"
        )
    found = json.loads(text)
    for one in found:
        if one["kind"] == "SandboxTemplate":
            assert one["spec"]["podTemplate"]["spec"].pop("runtimeClassName") == "gvisor"
    return found


@dataclass(frozen=True)
class Account:
    """The objects of the example in namespaces of a test, without the Job.

    Attributes:
        objects: The objects, by kind.
        runs: The namespace of the Job's service account.
        sandboxes: The namespace of the pool.
    """

    objects: Mapping[str, Document]
    runs: str
    sandboxes: str

    def claims(self, api: Api) -> list[str]:
        """The names of all claims."""
        return api.names(f"/apis/{GROUP}/{VERSION}/namespaces/{self.sandboxes}/sandboxclaims")


def apply(
    found: Sequence[Document], runs: str, namespace: str, server: ControlPlane, target: Path, patch: pytest.MonkeyPatch
) -> Account:
    """Create the objects of the example. From then on clients that read a kubeconfig have the rights of its service
    account.

    Args:
        found: The objects; see `example`.
        runs: The namespace of the service account.
        namespace: The namespace of the sandboxes.
        server: The API server.
        target: File for the kubeconfig.
        patch: Undoes the change of the kubeconfig.
    """
    objects = {one["kind"]: one for one in found if one["kind"] != "Job"}
    server.kubectl("create", "--filename=-", "--validate=strict", stdin=yaml.safe_dump_all(objects.values()))
    document = yaml.safe_load(server.kubeconfig.read_text())
    document["users"] = [
        {"name": "account", "user": {"token": server.kubectl("create", "token", USER, "--namespace", runs).strip()}}
    ]
    document["contexts"][0]["context"]["user"] = "account"
    target.write_text(yaml.safe_dump(document))
    patch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(target))
    cluster = Cluster(namespace)
    until(
        lambda: not cluster.missing_rights(), timeout_seconds=30, failure=lambda: f"missing: {cluster.missing_rights()}"
    )
    return Account(objects, runs, namespace)


def pod_of(template: Mapping[str, Any], name: str) -> Document:
    """The pod of a sandbox, on the node without containers."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {**template["podTemplate"]["spec"], "nodeName": NODE},
    }


def ready(sandbox: str) -> Document:
    """The status of a claim whose sandbox is ready."""
    return {"conditions": [condition("True", "DependenciesReady")], "sandbox": {"name": sandbox}}


def condition(status: str, reason: str, message: str = "said by the controller") -> Document:
    return {
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip


class Controlled(Cluster):
    """A cluster whose claims are answered by a function after their creation, as the controller does it.

    Attributes:
        claims: The claims that were created, in order.
    """

    answer: Callable[[Document], object]
    claims: list[Document]

    def create_claim(self, name: str, spec: Mapping[str, Any]) -> Document:
        made = super().create_claim(name, spec)
        self.claims.append(made)
        self.answer(made)
        return made


class Controller:
    """Answers claims with a sandbox and a pod."""

    def __init__(self, api: Api, account: Account) -> None:
        self._api, self._account, self._namespace = api, account, account.sandboxes
        self._template = account.objects["SandboxTemplate"]["spec"]

    def give(self, claim: Document) -> None:
        """Give the claim a sandbox that is ready, with a pod of another name."""
        name = claim["metadata"]["name"]
        sandbox, pod = f"sandbox-{name[-8:]}", f"pod-{name[-8:]}"
        annotations = {"agents.x-k8s.io/pod-name": pod}
        self._api.create(pod_of(self._template, pod), self._namespace)
        self._api.create(
            {
                "apiVersion": f"{SANDBOX_GROUP}/{VERSION}",
                "kind": "Sandbox",
                "metadata": {"name": sandbox, "annotations": annotations},
                "spec": {"podTemplate": self._template["podTemplate"]},
            },
            self._namespace,
        )
        self.say(claim, ready(sandbox))

    def say(self, claim: Document, status: Mapping[str, Any]) -> None:
        """Write the status of a claim."""
        self._api.patch(claim, {"status": status}, self._namespace, subresource="status")

    def claims(self) -> list[str]:
        """The names of all claims."""
        return self._account.claims(self._api)
