"""Small workloads for tests of the cluster itself: restricted pods that run a few lines of Python."""

from typing import Any

from halcyon_devcluster import Kubectl
from halcyon_devcluster.waiting import until

POD_SECURITY = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def pod_spec(image: str, program: str, **more: Any) -> dict[str, Any]:
    """A pod's spec that passes the restricted profile and runs `program` with Python."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-u", "-c", program],
        "securityContext": CONTAINER_SECURITY,
    }
    return {"restartPolicy": "Never", "securityContext": POD_SECURITY, "containers": [container], **more}


def pod(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A pod labelled with its own name."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def phase(kubectl: Kubectl, namespace: str, name: str) -> str:
    return kubectl("get", "pod", name, "--namespace", namespace, "--output=jsonpath={.status.phase}")


def wait_for_phase(kubectl: Kubectl, namespace: str, name: str, *phases: str) -> None:
    until(
        lambda: phase(kubectl, namespace, name) in phases,
        timeout_seconds=90,
        interval_seconds=0.5,
        failure=lambda: (
            f"pod {name} is {phase(kubectl, namespace, name)}: "
            f"{kubectl('describe', 'pod', name, '--namespace', namespace)}"
        ),
    )


def _mebibytes(quantity: str) -> float:
    """A memory quantity of Kubernetes in MiB."""
    units = {"Ki": 1 / 1024, "Mi": 1, "Gi": 1024}
    return float(quantity[:-2]) * units[quantity[-2:]] if quantity[-2:] in units else float(quantity) / 2**20


def allocatable_memory(kubectl: Kubectl) -> int:
    """MiB of the node that all pods together may request.

    Unlike `free_memory`, it does not change with other tests' pods.
    """
    (node,) = kubectl.json("get", "nodes")["items"]
    return int(_mebibytes(node["status"]["allocatable"]["memory"]))


def free_memory(kubectl: Kubectl) -> int:
    """MiB that further pods may request. Only for tests that run alone in the cluster."""
    pods = kubectl.json("get", "pods", "--all-namespaces")["items"]
    asked = [
        _mebibytes(container.get("resources", {}).get("requests", {}).get("memory", "0"))
        for pod in pods
        if pod["status"]["phase"] in ("Pending", "Running")
        for container in pod["spec"]["containers"]
    ]
    return int(allocatable_memory(kubectl) - sum(asked))
