"""Argo CD for tests: its real controller and its server of manifests, as processes on this machine, with a cache in
memory.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from halcyon_devcluster import Kubectl
from halcyon_devcluster.programs import ARGOCD, HELM3
from tests.gitops.readers import program
from tests.ports import free_port
from tests.suite.limits import limit

NAMESPACE = "argocd"
_LABELS = {"app.kubernetes.io/part-of": "argocd"}


def _objects() -> list[dict[str, Any]]:
    """What the processes read of an installation."""

    def named(kind: str, name: str, **more: Any) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": _LABELS},
            **more,
        }

    anything = {
        "sourceRepos": ["*"],
        "destinations": [{"namespace": "*", "server": "*"}],
        "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *(named("ConfigMap", f"argocd-{name}") for name in ("cm", "tls-certs-cm", "ssh-known-hosts-cm", "gpg-keys-cm")),
        named("Secret", "argocd-secret", stringData={"server.secretkey": secrets.token_hex(16)}),
        {**named("AppProject", "default", spec=anything), "apiVersion": "argoproj.io/v1alpha1"},
    ]


def repository(address: str) -> dict[str, Any]:
    """A registry of charts whose certificate nobody has signed."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "charts",
            "namespace": NAMESPACE,
            "labels": {"argocd.argoproj.io/secret-type": "repository"},
        },
        "stringData": {"type": "helm", "name": "charts", "url": address, "enableOCI": "true", "insecure": "true"},
    }


@contextmanager
def argocd(kubectl: Kubectl, folder: Path) -> Iterator[None]:
    """Argo CD's CRDs in the cluster, and its processes running. Delete the objects that they made before they end.

    Args:
        kubectl: The cluster.
        folder: For files and logs of the processes.
    """
    found, helm = program(ARGOCD, "argocd"), program(HELM3, "helm")
    files = [f"--filename={path}" for path in sorted((found.parent / "manifests/crds").glob("*-crd.yaml"))]
    kubectl("apply", "--server-side", *files)
    kubectl.await_established(*files)
    kubectl.apply(_objects())
    cache, manifests = (f"127.0.0.1:{free_port()}" for _ in range(2))
    environment = {
        **os.environ,
        "ARGOCD_FAKE_IN_CLUSTER": "true",
        "ARGOCD_GPG_ENABLED": "false",
        "HOME": str(folder),
        "KUBECONFIG": str(kubectl.kubeconfig),
        "PATH": f"{helm.parent}:{os.environ['PATH']}",
        "TMPDIR": str(folder),
    }
    common = ("--redis", cache, "--metrics-port", "0")
    port = manifests.rpartition(":")[2]
    controller = ("--namespace", NAMESPACE, "--repo-server", manifests, "--repo-server-plaintext")
    commands: dict[str, tuple[str | Path, ...]] = {
        "argocd-redis": (program(ARGOCD, "argocd-redis"), cache),
        "argocd-repo-server": (found, *common, "--address", "127.0.0.1", "--port", port, "--disable-tls"),
        "argocd-application-controller": (found, *common, *controller),
    }
    with ExitStack() as started:
        started.callback(kubectl, "delete", "namespace", NAMESPACE, "--wait=false")
        started.callback(kubectl, "delete", *files, "--ignore-not-found", f"--timeout={limit(60)}s")
        for name, command in commands.items():
            log = started.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen(
                command, env={**environment, "ARGOCD_BINARY_NAME": name}, stdout=log, stderr=subprocess.STDOUT
            )
            started.callback(process.wait, limit(60))
            started.callback(process.terminate)
        yield
