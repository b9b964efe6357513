"""ProvisioningRequests without an autoscaler: the part of their CRD that Kueue needs. A test plays the autoscaler.

Kueue checks for the kind only once, when it starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from halcyon_devcluster.kubectl import Kubectl
from halcyon_devcluster.kueue import GROUP
from tests.suite.limits import limit

CLASS = "queued-provisioning.example.com"
NODE_LABEL = "example.com/provisioning-request"
"""Label of the nodes that are created for a request, as `autoscaling.gke.io/provisioning-request` is on GKE."""
DETAIL = "RequestOfNodes"
CONSUMES = "autoscaling.x-k8s.io/consume-provisioning-request"
KIND = "provisioningrequests.autoscaling.x-k8s.io"
CHECK = "nodes"

_ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
DEFINITION: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": KIND,
        "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in of the tests"},
    },
    "spec": {
        "group": "autoscaling.x-k8s.io",
        "names": {"kind": "ProvisioningRequest", "plural": "provisioningrequests", "singular": "provisioningrequest"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": _ANY, "status": _ANY}}},
            }
        ],
    },
}


@contextmanager
def provisioning_requests(kubectl: Kubectl) -> Iterator[None]:
    """The CRD of ProvisioningRequests, for as long as Kueue runs."""
    kubectl.apply([DEFINITION])
    kubectl.await_established(f"crd/{KIND}")
    try:
        yield
    finally:
        kubectl("delete", "crd", KIND, "--ignore-not-found", f"--timeout={limit(60)}s")


def provisioning_check() -> list[dict[str, Any]]:
    """The admission check of Kueue's own provisioning controller, and its configuration."""
    parameters = {"apiGroup": GROUP, "kind": "ProvisioningRequestConfig", "name": CHECK}
    updates = {"nodeSelector": [{"key": NODE_LABEL, "valueFromProvisioningClassDetail": DETAIL}]}
    return [
        {
            "apiVersion": f"{GROUP}/v1beta2",
            "kind": "ProvisioningRequestConfig",
            "metadata": {"name": CHECK},
            "spec": {"provisioningClassName": CLASS, "podSetUpdates": updates},
        },
        {
            "apiVersion": f"{GROUP}/v1beta2",
            "kind": "AdmissionCheck",
            "metadata": {"name": CHECK},
            "spec": {"controllerName": f"{GROUP}/provisioning-request", "parameters": parameters},
        },
    ]


def answer(message: str = "", **conditions: bool) -> dict[str, Any]:
    """The status of a request as an autoscaler writes it: conditions by type, all with the same message."""
    written = [
        {
            "type": kind,
            "status": str(holds),
            "reason": kind,
            "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind, holds in conditions.items()
    ]
    return {"status": {"conditions": written}}
