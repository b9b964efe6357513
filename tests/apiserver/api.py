"""Requests to an API server as the commands of kubectl make them, without a process each: for tests about what the server answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from halcyon_operator.kube.merge_patch import merge_patch
from tests.connection import connect

Document = dict[str, Any]

_NO_NAMESPACE = {"CustomResourceDefinition", "Namespace"}


class Refused(Exception):
    """The API server's answer to a request that it did not take."""


class Api:
    """An API server, asked with the client certificate of a kubeconfig.

    Each method raises `Refused` where the answer is a refusal, and with `dry_run` nothing is kept.

    Args:
        kubeconfig: Its text.
        warnings_are_errors: Whether an answer with a warning (such as that of the pod security profiles) counts as a refusal.
    """

    def __init__(self, kubeconfig: str, *, warnings_are_errors: bool = False) -> None:
        self._client = connect(kubeconfig, timeout_seconds=30)
        self._warnings_are_errors = warnings_are_errors

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def create(self, document: Mapping[str, Any], namespace: str = "", *, dry_run: bool = False) -> Document:
        """What `kubectl create` asks for, and `kubectl apply` of an object that is not there. Unknown fields are refused."""
        return self._send("POST", self._collection(document, namespace), document, dry_run=dry_run)

    def edit(self, before: Mapping[str, Any], after: Mapping[str, Any], namespace: str, *, dry_run: bool = False) -> Document:
        """What `kubectl apply` asks for where it was called with `before` and is now called with `after`."""
        return self.patch(before, merge_patch(before, after), namespace, dry_run=dry_run)

    def patch(
        self, document: Mapping[str, Any], changes: Mapping[str, Any], namespace: str, *, subresource: str = "", dry_run: bool = False
    ) -> Document:
        """What `kubectl patch --type=merge` asks for."""
        return self._send("PATCH", self._path(document, namespace, subresource), changes, "merge-patch+json", dry_run=dry_run)

    def apply(self, document: Mapping[str, Any], namespace: str, *, dry_run: bool = False) -> Document:
        """What `kubectl apply --server-side` asks for."""
        query = {"fieldManager": "kubectl"}
        return self._send("PATCH", self._path(document, namespace), document, "apply-patch+yaml", query, dry_run=dry_run)

    def get(self, document: Mapping[str, Any], namespace: str = "") -> Document:
        """The object of that kind and name as it is now."""
        return self._answer(self._client.get(self._path(document, namespace)))

    def answers(self, path: str) -> bool:
        """Whether there is something at a path."""
        return self._client.get(path).is_success

    def _collection(self, document: Mapping[str, Any], namespace: str) -> str:
        version, kind = document["apiVersion"], document["kind"]
        group = f"/apis/{version}" if "/" in version else f"/api/{version}"
        plural = kind.lower() if kind.endswith("s") else f"{kind.lower()}s"
        return f"{group}/{plural}" if kind in _NO_NAMESPACE else f"{group}/namespaces/{namespace}/{plural}"

    def _path(self, document: Mapping[str, Any], namespace: str, subresource: str = "") -> str:
        path = f"{self._collection(document, namespace)}/{document['metadata']['name']}"
        return f"{path}/{subresource}" if subresource else path

    def _send(
        self,
        verb: str,
        path: str,
        body: Mapping[str, Any],
        kind: str = "json",
        query: Mapping[str, str] | None = None,
        *,
        dry_run: bool,
    ) -> Document:
        parameters = {"fieldValidation": "Strict", **(query or {}), **({"dryRun": "All"} if dry_run else {})}
        headers = {"Content-Type": f"application/{kind}"}
        return self._answer(self._client.request(verb, path, params=parameters, json=body, headers=headers))

    def _answer(self, answer: httpx.Response) -> Document:
        document = answer.json()
        if not answer.is_success:
            raise Refused(" ".join(document["message"].split()))
        if self._warnings_are_errors and "Warning" in answer.headers:
            raise Refused(answer.headers["Warning"])
        return document
