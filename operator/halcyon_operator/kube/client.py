"""Requests to the Kubernetes API in plain JSON, with the official client's connection and credentials.

The client's generated classes are not used: they reject fields that they do not know, and their objects need more
memory than the JSON."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from prometheus_client import Counter

from halcyon_operator.model.decision import Manifest
from halcyon_operator.model.untrusted import integer, text, value_at

_TOTAL_SECONDS, _CONNECT_SECONDS = 30, 10
_TIMEOUT = aiohttp.ClientTimeout(total=_TOTAL_SECONDS, connect=_CONNECT_SECONDS)
LONGEST_RETRY_AFTER_SECONDS = 60.0
_STRICT = "strict decoding error"
_WITH_OBJECT = ("POST", "PUT", "PATCH")
MERGE_PATCH = "application/merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_TOKEN_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class NoCluster(Exception):
    """No API server is configured. The message is one sentence for the user."""


class ApiError(Exception):
    """The API server rejected a request, or could not be reached (code 0).

    Args:
        code: HTTP status.
        reason: Reason in one word.
        message: Reason in one sentence.
        retry_after: Seconds until the API server accepts the next request.
    """

    def __init__(self, code: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{reason or code}: {message}" if message else f"{reason or code}")
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


class NotLeading(ApiError):
    """This process may not write any more: another process may hold the Lease."""

    def __init__(self) -> None:
        super().__init__(0, "NotLeading", "this operator does not hold the lease any more")


class NotFound(ApiError):
    """There is no such object."""


class Conflict(ApiError):
    """The object was changed after it was read, or already exists."""


def path_of(
    api_version: str, plural: str, namespace: str | None, name: str | None = None, subresource: str | None = None
) -> str:
    """The path of a resource in the API."""
    base = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    parts = [base]
    parts += ["namespaces", quote(namespace, safe="")] if namespace else []
    parts += [plural, *(quote(part, safe="") for part in (name, subresource) if part)]
    return "/".join(parts)


class KubernetesApi:
    """Sends requests with JSON bodies and answers.

    Args:
        client: The official client, for its connection and credentials.
        requests: Counts requests by verb, resource and code.
        agent: Name of this program for the API server's log.
    """

    def __init__(self, client: ApiClient, requests: Counter, agent: str = "halcyon-operator") -> None:
        self._client: Any = client  # The client's methods have no types.
        self._requests = requests
        self._agent = agent
        self._seconds_left: Callable[[], float] = lambda: math.inf

    def fence(self, seconds_left: Callable[[], float]) -> None:
        """Limit each write to the seconds that are left, and reject writes when none are left."""
        self._seconds_left = seconds_left

    async def request(
        self,
        method: str,
        path: str,
        resource: str,
        *,
        query: dict[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        fenced: bool = True,
    ) -> Manifest:
        """Send one request.

        Args:
            method: HTTP method.
            path: Path below the server's address.
            resource: Plural of the resource, for the metrics.
            query: Query parameters.
            body: JSON body.
            content_type: Content type of the body.
            accept: Accepted content type of the answer.
            fenced: Whether a write needs the Lease.

        Returns:
            The answer.

        Raises:
            NotFound: There is no such object.
            Conflict: The object was changed after it was read, or already exists.
            NotLeading: The request is a write, and this process does not hold the Lease any more.
            ApiError: Any other rejection, or no answer.
        """
        verb = method.lower()
        try:
            if method in _WITH_OBJECT and not path.endswith("/status"):
                # Without this the API server silently drops an unknown field. For a status it should: the resource
                # definition may be older than the operator, and the fields that it knows must be written.
                query = {**(query or {}), "fieldValidation": "Strict"}
            url = f"{self._client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
            headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": self._agent}
            await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            timeout = _TIMEOUT
            if fenced and method != "GET":
                # Checked as late as possible, because the steps before may take long.
                if (left := self._seconds_left()) <= 0:
                    raise NotLeading
                timeout = aiohttp.ClientTimeout(total=min(_TOTAL_SECONDS, left), connect=_CONNECT_SECONDS)
            response = await self._client.call_api(method, url, headers, body, None, timeout)
            content: bytes = await response.read()
            code = int(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._requests.labels(verb, resource, "none").inc()
            raise ApiError(
                0, "Unreachable", f"the API server did not answer: {type(error).__name__}: {error}"
            ) from error
        self._requests.labels(verb, resource, str(code)).inc()
        document, is_object = _parse(content)
        if code < 400 and is_object:
            return document
        if code < 400:  # such as a page of a proxy: it says nothing about the object, nor that there is none
            raise ApiError(0, "Unreadable", f"the API server answered with HTTP status {code} and no JSON object")
        kind = {404: NotFound, 409: Conflict}.get(code, ApiError)
        wait = min(LONGEST_RETRY_AFTER_SECONDS, float(integer(response.headers.get("Retry-After")) or 0))
        raise kind(code, text(value_at(document, "reason")), _message(document), max(0.0, wait))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()


async def connect(requests: Counter, agent: str = "halcyon-operator") -> KubernetesApi:
    """A client of the API server: with the pod's service account inside a cluster, else with the kubeconfig.

    Raises:
        NoCluster: Neither exists.
    """
    configuration = Configuration()
    loader: Any = kubernetes_config  # Its functions have no types.
    try:
        if inside_cluster():
            loader.load_incluster_config(client_configuration=configuration)
        else:
            await loader.load_kube_config(client_configuration=configuration)
    except (kubernetes_config.ConfigException, OSError) as error:
        raise NoCluster(
            f"no way to a Kubernetes API server ({error}); run inside a cluster, or set KUBECONFIG"
        ) from None
    return KubernetesApi(ApiClient(configuration), requests, agent)


def inside_cluster() -> bool:
    """Whether this is a pod with a service account."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and _TOKEN_FILE.exists()


def _message(document: Manifest) -> str:
    """The API server's message.

    For an unknown field the message begins with the whole object; only the part about the field is kept.
    """
    message = value_at(document, "message")
    if isinstance(message, str) and (begin := message.find(_STRICT)) >= 0:
        return text(message[begin:])
    return text(message)


def _parse(content: bytes) -> tuple[Manifest, bool]:
    """A document, and whether the answer was one."""
    try:
        document = json.loads(content)
    except ValueError:
        return {"message": content[:200].decode(errors="replace")}, False
    return (cast("Manifest", document), True) if isinstance(document, dict) else ({}, False)


def merge_patch(old: Mapping[str, object], new: Mapping[str, object]) -> Manifest:
    """The smallest patch from `old` to `new`: members that differ, null for removed members.

    A list that differs is sent whole.
    """
    patch: Manifest = dict.fromkeys(key for key in old if key not in new)
    for key, value in new.items():
        before = old.get(key)
        if key in old and before == value and type(before) is type(value):
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            patch[key] = merge_patch(cast("Mapping[str, object]", before), cast("Mapping[str, object]", value))
        else:
            patch[key] = value
    return patch
