"""The cluster as the command line sees it: runs of the kubeconfig's present context, and nothing else."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from halcyon_api import names
from halcyon_api.training_run import GROUP, PLURAL, VERSION
from halcyon_cli.telling import Refused
from halcyon_cli.watching import WatchEnded, documents

_TIMEOUT_SECONDS = 20
_WATCH_SECONDS = 30
"""How long the server keeps a watch open; then the run is looked at anew, changed or not."""
_PAUSE_SECONDS = 1.0
"""After a watch that broke off, or that the user may not have."""
_PAGE = 200


@dataclass(frozen=True)
class Place:
    """Where a command's run is: a namespace of a context; None for those of the kubeconfig."""

    context: str | None = None
    namespace: str | None = None


class Runs:
    """TrainingRuns of one namespace.

    Raises:
        Refused: There is no cluster to ask.
    """

    def __init__(self, place: Place) -> None:
        try:
            from kubernetes import client, config
        except ModuleNotFoundError:
            raise Refused("asking a cluster needs the Kubernetes client; install it with: pip install 'halcyon[cli]'") from None
        settings = client.Configuration()
        try:
            _, active = _contexts(config, place.context)
            config.load_kube_config(context=place.context, client_configuration=settings)
        except config.ConfigException as error:
            raise Refused(f"no cluster is configured ({error}); set KUBECONFIG, or give --context") from None
        connection = client.ApiClient(settings)
        self._api, self._core = client.CustomObjectsApi(connection), client.CoreV1Api(connection)
        self.namespace = place.namespace or active.get("namespace") or "default"

    def get(self, name: str) -> dict[str, Any]:
        """A run's document.

        Raises:
            Refused: It is not there, or the cluster does not answer.
        """
        with self._asking(name):
            found: Any = self._api.get_namespaced_custom_object(*self._kind, name, _request_timeout=_TIMEOUT_SECONDS)
            return found

    def find(self, name: str) -> dict[str, Any] | None:
        """A run's document, or None if there is no such run.

        Raises:
            Refused: The cluster does not answer or allow it.
        """
        with self._asking(name, absent=True):
            found: Any = self._api.get_namespaced_custom_object(*self._kind, name, _request_timeout=_TIMEOUT_SECONDS)
            return found
        return None

    def changes(self, name: str) -> Iterator[dict[str, Any]]:
        """A run's document now, after every change, and every half minute without one, for as long as somebody asks.

        Raises:
            Refused: It is not there, or not any more, or the cluster does not answer.
        """
        return documents(lambda: self.get(name), lambda version: self._events(name, version), lambda: time.sleep(_PAUSE_SECONDS))

    def objection(self, name: str, document: dict[str, Any]) -> str:
        """What the API server, with all its policies, says against a document in the place of a run's; empty where it would take it, or
        does not let the user ask. Nothing is changed.

        Raises:
            Refused: The cluster does not answer.
        """
        from kubernetes.client.exceptions import ApiException

        while True:
            with self._asking(name):
                try:
                    self._api.replace_namespaced_custom_object(
                        *self._kind, name, document, dry_run="All", _request_timeout=_TIMEOUT_SECONDS
                    )
                except ApiException as error:
                    said = _message(error)
                    if error.status in (400, 422) or (error.status == 403 and "denied" in said):  # by the schema, or by a policy
                        return said
                    if error.status not in (403, 409):
                        raise
                    if error.status == 409:  # its status was written meanwhile
                        document = document | {"metadata": self.get(name)["metadata"]}
                        continue
            return ""

    def list(self, *, everywhere: bool) -> list[dict[str, Any]]:
        """The documents of all runs, of the namespace or of the whole cluster, by namespace and name.

        Raises:
            Refused: The cluster does not answer or allow it.
        """
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            with self._asking("*"):
                page: Any = (
                    self._api.list_cluster_custom_object(
                        GROUP, VERSION, PLURAL, limit=_PAGE, _continue=token, _request_timeout=_TIMEOUT_SECONDS
                    )
                    if everywhere
                    else self._api.list_namespaced_custom_object(
                        *self._kind, limit=_PAGE, _continue=token, _request_timeout=_TIMEOUT_SECONDS
                    )
                )
            found += page["items"]
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return sorted(found, key=lambda run: (run["metadata"].get("namespace", ""), run["metadata"]["name"]))

    def patch(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Merge something into a run and give its document back.

        Raises:
            Refused: It is not there, or the cluster does not answer, allow or accept it.
        """
        with self._asking(name):
            found: Any = self._api.patch_namespaced_custom_object(*self._kind, name, patch, _request_timeout=_TIMEOUT_SECONDS)
            return found

    def pods(self, name: str) -> list[Any]:
        """A run's trainer pods, by name.

        Raises:
            Refused: The cluster does not answer or allow it.
        """
        selector = f"{names.LABEL_RUN}={name},{names.LABEL_ROLE}!={names.ROLE_PROBE}"
        with self._asking(name):
            found = self._core.list_namespaced_pod(self.namespace, label_selector=selector, _request_timeout=_TIMEOUT_SECONDS)
            return sorted(found.items, key=lambda pod: pod.metadata.name)

    def log(self, pod: str, *, tail: int | None = None) -> str:
        """What a pod's trainer has written so far; empty where it has not begun, or is gone.

        Raises:
            Refused: The cluster does not answer or allow it.
        """
        with self._asking(pod, absent=True), self._writing(pod, follow=False, tail=tail) as response:
            return response.data.decode("utf-8", "replace")
        return ""

    def follow(self, pod: str) -> Iterator[str]:
        """The lines of a pod's trainer, as they come, until it ends."""
        with self._asking(pod, absent=True), self._writing(pod, follow=True, tail=None) as response:
            rest = b""
            for piece in response.stream(amt=None):
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
            if rest:
                yield rest.decode("utf-8", "replace")

    def _events(self, name: str, version: str) -> Iterator[dict[str, Any]]:
        """What happens to a run after a resource version, until the server ends the watch.

        Raises:
            WatchEnded: It broke off, or cannot be had; why is what the next look tells.
        """
        from kubernetes.client.exceptions import ApiException
        from kubernetes.watch import Watch
        from urllib3.exceptions import HTTPError

        stream: Any = Watch().stream(
            self._api.list_namespaced_custom_object,
            *self._kind,
            field_selector=f"metadata.name={name}",
            resource_version=version,
            timeout_seconds=_WATCH_SECONDS,
            _request_timeout=_WATCH_SECONDS + _TIMEOUT_SECONDS,
        )
        try:
            # What is no event is a line that was cut off.
            yield from (event for event in stream if event is not None)
        except (ApiException, HTTPError, OSError):
            raise WatchEnded from None

    @contextlib.contextmanager
    def _writing(self, pod: str, *, follow: bool, tail: int | None) -> Iterator[Any]:
        options: dict[str, Any] = {} if tail is None else {"tail_lines": tail}
        response: Any = self._core.read_namespaced_pod_log(
            pod,
            self.namespace,
            container=names.TRAINER_CONTAINER,
            follow=follow,
            _preload_content=False,
            _request_timeout=None if follow else _TIMEOUT_SECONDS,
            **options,
        )
        try:
            yield response
        finally:
            response.release_conn()

    @property
    def _kind(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    @contextlib.contextmanager
    def _asking(self, name: str, *, absent: bool = False) -> Iterator[None]:
        """Turn errors into sentences. With `absent`, what is not there, or not yet, is no error."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            if absent and error.status in (400, 404):
                return
            if error.status == 404:
                raise Refused(
                    f"there is no TrainingRun {name} in namespace {self.namespace}; look with: kubectl get trainingruns --all-namespaces"
                ) from None
            if error.status in (401, 403):
                raise Refused(f"the cluster does not let you touch TrainingRun {self.namespace}/{name} ({error.reason})") from None
            raise Refused(f"the cluster refused: {_message(error)}") from None
        except (HTTPError, OSError) as error:
            raise Refused(
                f"the cluster does not answer ({type(error).__name__}); is the context of your kubeconfig the right one?"
            ) from None


def _message(error: Any) -> str:
    """What the API server says, without the frame around it."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.status} {error.reason}"


def _contexts(config: Any, wanted: str | None) -> tuple[list[Any], dict[str, Any]]:
    contexts, active = config.list_kube_config_contexts()
    chosen = active if wanted is None else next((one for one in contexts if one["name"] == wanted), None)
    return contexts, (chosen or {}).get("context", {})
