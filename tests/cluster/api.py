"""Reads from the API server over one open connection.

Starting kubectl every 0.1 seconds takes a quarter of a core. So tests read here while they wait, and use kubectl only
for what a user does.
"""

from __future__ import annotations

import atexit
import json
from functools import cache
from typing import Any

import httpx

from halcyon_devcluster import DevclusterError
from tests.connection import connect

_GROUPS = {
    "configmap": "api/v1",
    "pod": "api/v1",
    "event": "apis/events.k8s.io/v1",
    "job": "apis/batch/v1",
    "jobset": "apis/jobset.x-k8s.io/v1alpha2",
    "trainingrun": "apis/halcyon.dev/v1alpha1",
}
"""Kinds of objects that tests wait for, and the API group and version of each."""


class Api:
    """The API server of one kubeconfig with a client certificate.

    Args:
        kubeconfig: Its text.
    """

    def __init__(self, kubeconfig: str) -> None:
        self._client = connect(kubeconfig, timeout_seconds=10)
        atexit.register(self._client.close)  # otherwise each worker ends with a warning of an open socket

    def text(self, path: str, **query: str) -> str:
        """GET a path.

        Raises:
            DevclusterError: The API server does not answer, or it answers with an error.
        """
        try:
            answer = self._client.get(path, params=query)
        except httpx.TransportError as why:
            raise DevclusterError(f"GET {path}: {type(why).__name__}: {why}") from why
        if not answer.is_success:
            raise DevclusterError(f"GET {path}: {answer.status_code} {answer.text[:500]}")
        return answer.text

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """One object.

        Raises:
            DevclusterError: The object does not exist, or the API server does not answer.
        """
        return json.loads(self.text(f"{_path(kind, namespace)}/{name}"))

    def items(self, kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        """The objects of a namespace that match a label selector, sorted by name.

        Raises:
            DevclusterError: The API server does not answer.
        """
        return json.loads(self.text(_path(kind, namespace), labelSelector=selector))["items"]

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object if it exists. Does not wait for the deletion."""
        self._client.delete(f"{_path(kind, namespace)}/{name}", params={"propagationPolicy": "Background"})


def qualified(kind: str, name: str) -> str:
    """An object's name as `kubectl get --output=name` shows it. Pure."""
    group = _GROUPS[kind].split("/")[1] if _GROUPS[kind].startswith("apis/") else ""
    return f"{kind}.{group}/{name}" if group else f"{kind}/{name}"


@cache
def api_of(kubeconfig: str) -> Api:
    """The API server of a kubeconfig's text. Each process keeps one connection to it."""
    return Api(kubeconfig)


def _path(kind: str, namespace: str) -> str:
    return f"/{_GROUPS[kind]}/namespaces/{namespace}/{kind}s"
