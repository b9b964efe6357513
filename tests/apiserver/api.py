"""Requests to an API server as kubectl's commands make them, without starting a process for each: for tests of the
server's answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from halcyon_operator.kube.client import merge_patch
from tests.connection import connect

Document = dict[str, Any]

_NO_NAMESPACE = {"CustomResourceDefinition", "Namespace", "Node"}


class Refused(Exception):
    """The API server rejected a request."""


class Api:
    """An API server, used with the client certificate of a kubeconfig.

    Each method raises `Refused` if the server rejects the request. With `dry_run` nothing is stored.

    Args:
        kubeconfig: Its text.
        warnings_are_errors: Whether an answer with a warning (such as one of the pod security profiles) counts as a
            rejection.
    """

    def __init__(self, kubeconfig: str, *, warnings_are_errors: bool = False) -> None:
        self._client = connect(kubeconfig, timeout_seconds=30)
        self._warnings_are_errors = warnings_are_errors

    def close(self) -> None:
        self._client.close()

    def create(self, document: Mapping[str, Any], namespace: str = "", *, dry_run: bool = False) -> Document:
        """As `kubectl create`, or `kubectl apply` of a new object. Unknown fields are rejected."""
        return self._send("POST", self._collection(document, namespace), document, dry_run=dry_run)

    def edit(
        self, before: Mapping[str, Any], after: Mapping[str, Any], namespace: str, *, dry_run: bool = False
    ) -> Document:
        """As `kubectl apply` of `after`, if the last applied document was `before`."""
        return self.patch(before, merge_patch(before, after), namespace, dry_run=dry_run)

    def patch(
        self,
        document: Mapping[str, Any],
        changes: Mapping[str, Any],
        namespace: str,
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Document:
        """As `kubectl patch --type=merge`."""
        return self._send(
            "PATCH", self._path(document, namespace, subresource), changes, "merge-patch+json", dry_run=dry_run
        )

    def apply(self, document: Mapping[str, Any], namespace: str, *, dry_run: bool = False) -> Document:
        """As `kubectl apply --server-side`."""
        query = {"fieldManager": "kubectl"}
        return self._send(
            "PATCH", self._path(document, namespace), document, "apply-patch+yaml", query, dry_run=dry_run
        )

    def get(self, document: Mapping[str, Any], namespace: str = "") -> Document:
        """The current object of that kind and name."""
        return self._answer(self._client.get(self._path(document, namespace)))

    def columns(self, document: Mapping[str, Any], namespace: str) -> Document:
        """The cells of an object by column, as `kubectl get --output wide` prints them."""
        accept = {"Accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}
        table = self._answer(self._client.get(self._path(document, namespace), headers=accept))
        names = (column["name"] for column in table["columnDefinitions"])
        return dict(zip(names, table["rows"][0]["cells"], strict=True))

    def names(self, path: str) -> list[str]:
        """The names of the objects of a collection."""
        return [one["metadata"]["name"] for one in self._answer(self._client.get(path))["items"]]

    def answers(self, path: str) -> bool:
        """Whether a GET of the path succeeds."""
        return self._client.get(path).is_success

    def _collection(self, document: Mapping[str, Any], namespace: str) -> str:
        version, kind = document["apiVersion"], document["kind"]
        group = f"/apis/{version}" if "/" in version else f"/api/{version}"
        plural = f"{kind.lower()}{'' if kind.endswith('s') else 'es' if kind.endswith('x') else 's'}"
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
