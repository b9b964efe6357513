"""Requests to the cluster of a pool. Only this module of the trainer imports the Kubernetes client, and only `halcyon
eval` uses it.

The sandboxes are those of agent-sandbox (https://agent-sandbox.sigs.k8s.io). Its own client of Python is not used: it
runs commands through an HTTP server in the pod, which needs a way through the network into the pod, and it holds all
that a command prints.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from halcyon.errors import BadConfiguration
from halcyon.evals.sandbox.in_pod import COMMAND, Frame, Lost
from halcyon_api.package import install

GROUP, VERSION, SANDBOX_GROUP = "extensions.agents.x-k8s.io", "v1beta1", "agents.x-k8s.io"
_CLAIMS = "sandboxclaims"
_POD_NAME = "agents.x-k8s.io/pod-name"
_TIMEOUT_SECONDS = 30.0
Document = dict[str, Any]
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Right(NamedTuple):
    """A verb on a resource of the pool's namespace."""

    verb: str
    group: str
    resource: str
    subresource: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'/' if self.subresource else ''}{self.subresource}"


RIGHTS = (
    *(Right(verb, GROUP, _CLAIMS) for verb in ("create", "delete", "get", "watch")),
    Right("get", GROUP, "sandboxwarmpools"),
    Right("get", SANDBOX_GROUP, "sandboxes"),
    Right("get", "", "pods"),
    Right("get", "", "pods", "exec"),
    Right("create", "", "pods", "exec"),
)
"""All rights that a pool needs. An exec connection is a GET, and newer API servers also want the right to create."""


class WatchEnded(Exception):
    """A watch broke off or could not be opened. A new read finds what it missed."""


class Failed(Exception):
    """The API server rejected a request, or did not answer.

    Attributes:
        code: HTTP status; 0 without an answer.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Cluster:
    """A namespace of a cluster: that of this pod, or that of the kubeconfig.

    Args:
        namespace: Another namespace.

    Raises:
        BadConfiguration: The Kubernetes client is not installed, or no cluster is configured.
    """

    def __init__(self, namespace: str | None = None) -> None:
        try:
            from kubernetes import client, config
        except ModuleNotFoundError:
            raise BadConfiguration(
                f"a sandbox pool needs the Kubernetes client; install it with: {install('agent-sandbox')}"
            ) from None
        self._settings, own = client.Configuration(), None
        try:
            try:
                config.load_incluster_config(self._settings)
                with suppress(OSError):
                    own = _OWN_NAMESPACE.read_text().strip()
            except config.ConfigException:
                _, active = config.list_kube_config_contexts()
                config.load_kube_config(client_configuration=self._settings)
                own = active["context"].get("namespace")
        except config.ConfigException as error:
            raise BadConfiguration(
                f"a sandbox pool needs a cluster, and none is configured ({error}); set KUBECONFIG"
            ) from None
        connection = client.ApiClient(self._settings)
        self._objects, self._core = client.CustomObjectsApi(connection), client.CoreV1Api(connection)
        self._access = client.AuthorizationV1Api(connection)
        self.namespace = namespace or own or "default"

    def pool(self, name: str) -> Document:
        """The SandboxWarmPool of a name. It raises `Failed`."""
        return self._object(GROUP, "sandboxwarmpools", name)

    def missing_rights(self) -> list[Right]:
        """Those of `RIGHTS` that this user does not have. It raises `Failed`."""
        return [right for right in RIGHTS if not self._has(right)]

    def create_claim(self, name: str, spec: Mapping[str, Any]) -> Document:
        """Create a claim, and return it. It raises `Failed`."""
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "SandboxClaim",
            "metadata": {"name": name},
            "spec": dict(spec),
        }
        return _answer(self._objects.create_namespaced_custom_object, GROUP, VERSION, self.namespace, _CLAIMS, body)

    def claim(self, name: str) -> Document | None:
        """A claim; None if it does not exist. It raises `Failed`."""
        try:
            return self._object(GROUP, _CLAIMS, name)
        except Failed as error:
            if error.code == 404:
                return None
            raise

    def claim_events(self, name: str, version: str, seconds: float) -> Iterator[Document]:
        """The events of a claim after a resource version, for some seconds.

        It raises `WatchEnded`, or `Failed` without the right.
        """
        from kubernetes.client.exceptions import ApiException
        from kubernetes.watch import Watch
        from urllib3.exceptions import HTTPError

        whole = math.ceil(seconds)
        try:
            events: Any = Watch().stream(
                self._objects.list_namespaced_custom_object, GROUP, VERSION, self.namespace, _CLAIMS,
                field_selector=f"metadata.name={name}", resource_version=version, timeout_seconds=whole,
                _request_timeout=(_TIMEOUT_SECONDS, whole + _TIMEOUT_SECONDS),
            )  # fmt: skip
            yield from events
        except ApiException as error:
            if error.status in (401, 403):
                raise _failed(error) from None
            raise WatchEnded(str(error.reason)) from None
        except (HTTPError, OSError, ValueError) as error:
            raise WatchEnded(str(error)) from None

    def delete_claim(self, name: str) -> None:
        """Delete a claim, and with it the sandbox and its pod; a claim that does not exist is no error.

        It raises `Failed`.
        """
        try:
            _answer(self._objects.delete_namespaced_custom_object, GROUP, VERSION, self.namespace, _CLAIMS, name)
        except Failed as error:
            if error.code != 404:
                raise

    def pod_of(self, sandbox: str) -> str:
        """The name of the pod of a sandbox. It raises `Failed`."""
        metadata = self._object(SANDBOX_GROUP, "sandboxes", sandbox)["metadata"]
        return (metadata.get("annotations") or {}).get(_POD_NAME) or sandbox

    def lacked_memory(self, pod: str) -> bool:
        """Whether a container of a pod was killed because its memory was used up; False also for a pod that is gone."""
        try:
            containers = _answer(self._core.read_namespaced_pod, pod, self.namespace).status.container_statuses or ()
        except Failed:
            return False
        states = [state for container in containers for state in (container.state, container.last_state) if state]
        return any(state.terminated is not None and state.terminated.reason == "OOMKilled" for state in states)

    def connect(self, pod: str) -> Exec:
        """Start `in_pod.COMMAND` in the container of a pod. It raises `Lost`."""
        from kubernetes.client import ApiClient, CoreV1Api
        from kubernetes.client.exceptions import ApiException
        from kubernetes.stream import stream

        # A client of its own: the stream replaces the function that sends the requests of its client.
        core = CoreV1Api(ApiClient(self._settings))
        try:
            opened: Any = stream(
                core.connect_get_namespaced_pod_exec, pod, self.namespace, command=list(COMMAND),
                stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False, binary=True,
            )  # fmt: skip
        except ApiException as error:
            raise Lost(f"does not accept a command: {error.reason}") from None
        return Exec(opened)

    def _object(self, group: str, plural: str, name: str) -> Document:
        return _answer(self._objects.get_namespaced_custom_object, group, VERSION, self.namespace, plural, name)

    def _has(self, right: Right) -> bool:
        attributes = {"namespace": self.namespace, **right._asdict()}
        body = {"spec": {"resourceAttributes": attributes}}
        status = _answer(self._access.create_self_subject_access_review, body).status
        return bool(status and status.allowed)


class Exec:
    """A connection to a command in a pod; see `in_pod.Connection`.

    The frames are read one by one: the client's own functions keep all that has arrived, which a program could make
    endless.
    """

    def __init__(self, opened: Any) -> None:
        self._opened, self._socket = opened, opened.sock

    def send(self, data: bytes) -> None:
        """See `in_pod.Connection`."""
        from websocket import WebSocketException

        try:
            self._socket.settimeout(_TIMEOUT_SECONDS)
            self._opened.write_stdin(data)
        except (WebSocketException, OSError) as error:
            raise Lost(f"did not take the program: {error}") from None

    def receive(self, seconds: float) -> Frame | None:
        """See `in_pod.Connection`."""
        from websocket import ABNF, WebSocketException, WebSocketTimeoutException

        try:
            self._socket.settimeout(max(seconds, 0.001))
            code, frame = self._socket.recv_data_frame(True)
        except (WebSocketTimeoutException, TimeoutError):
            return None
        except (WebSocketException, OSError) as error:
            raise Lost(f"ended the connection: {error}") from None
        if code == ABNF.OPCODE_CLOSE:
            raise Lost("ended the connection")
        data = frame.data if code in (ABNF.OPCODE_BINARY, ABNF.OPCODE_TEXT) else b""
        return Frame(data[0], bytes(data[1:])) if data else Frame(-1, b"")

    def interrupt(self) -> None:
        """Let the thread that uses the connection get `Lost`."""
        with suppress(Exception):
            self._socket.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the connection, without the handshake of a close, in which a program could let this side wait."""
        self._socket.shutdown()


def _answer(request: Callable[..., Any], *arguments: object) -> Any:
    """The answer of the API server. It raises `Failed`."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return request(*arguments, _request_timeout=_TIMEOUT_SECONDS)
    except ApiException as error:
        raise _failed(error) from None
    except (HTTPError, OSError) as error:
        raise Failed(0, f"the API server does not answer: {getattr(error, 'reason', error)}") from None


def _failed(error: Any) -> Failed:
    """The API server's sentence. A kind that it does not serve has no sentence."""
    try:
        message = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        message = str(error.reason)
    return Failed(int(error.status or 0), " ".join(message.split()))
