"""The cluster as the command line sees it: runs of the kubeconfig's present context, and nothing else."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from halcyon_api import names
from halcyon_api.package import install
from halcyon_api.training_run import GROUP, PLURAL, VERSION
from halcyon_cli.telling import Refused
from halcyon_cli.watching import WatchEnded, documents, each

_TIMEOUT_SECONDS = 20
_WATCH_SECONDS = 30
"""How long the server keeps a watch open; then the run is looked at anew, changed or not."""
_PAUSE_SECONDS = 1.0
"""After a watch or a log that broke off, or that the user may not have."""
_SILENCE_SECONDS = 60
"""A log in which nothing came for so long is asked for anew: a connection that is dead does not say so."""
_OVERLAP_SECONDS = 30
"""Of a log that is taken up again so much is asked for twice, and passed over by its times."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT")
_READING = "read the log of pod"
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
            raise Refused(f"asking a cluster needs the Kubernetes client; install it with: {install('cli')}") from None
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
        return documents(lambda: self.get(name), lambda version: self._events(name, version), _pause)

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
        return sorted(self._pods(name)[0], key=lambda pod: pod.metadata.name)

    def pod_changes(self, name: str) -> Iterator[Any]:
        """A run's trainer pods as they are now, then each that comes or changes, and all anew every half minute.

        Raises:
            Refused: The cluster does not answer or allow it.
        """
        return each(lambda: self._pods(name), lambda version: self._pod_events(name, version), _pause)

    def log(self, pod: str, *, tail: int | None = None) -> str:
        """What a pod's trainer has written so far; empty where it has not begun, or is gone.

        Raises:
            Refused: The cluster does not answer or allow it.
        """
        with self._asking(pod, absent=True, doing=_READING), self._writing(pod, follow=False, tail_lines=tail) as response:
            return response.data.decode("utf-8", "replace")
        return ""

    def follow(self, pod: str, uid: str) -> Iterator[str]:
        """The lines of a pod's trainer, as they come, until it has ended or is gone. Where the log breaks off it is taken up again at the
        line after the last.

        Raises:
            Refused: The cluster does not allow it, or does not answer when it is asked for the pod.
        """
        last, heard_at = "", 0.0
        while True:
            over = self._is_over(pod, uid)  # before its log is read: what it writes after that is not its last word
            recent = None if not last else math.ceil(time.monotonic() - heard_at) + _OVERLAP_SECONDS
            before = last
            for line in self._lines(pod, recent):
                at, _, text = line.partition(" ")
                if _TIME.match(at) is None:
                    if over:
                        yield line  # the kubelet's word on a log that it has not; of a pod that lives it may have it the next time
                elif at > before:  # of one node, in one format, so texts compare as times do
                    last, heard_at = at, time.monotonic()
                    yield text
            if over:
                return
            _pause()

    def _lines(self, pod: str, recent_seconds: int | None) -> Iterator[str]:
        """The lines of a pod's log with the kubelet's times before them, until it ends or breaks off.

        Raises:
            Refused: The cluster does not allow it.
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        rest = b""
        with self._asking(pod, doing=_READING):
            try:
                with self._writing(pod, follow=True, timestamps=True, since_seconds=recent_seconds) as response:
                    for piece in response.stream(amt=None):
                        *lines, rest = (rest + piece).split(b"\n")
                        yield from (line.decode("utf-8", "replace") for line in lines)
            except ApiException as error:
                if error.status in (401, 403):
                    raise
                return  # it has not begun, is gone, or its node does not answer
            except (HTTPError, OSError):
                return  # what was cut off comes again whole
        if rest:
            yield rest.decode("utf-8", "replace")

    def _is_over(self, pod: str, uid: str) -> bool:
        """Whether a pod has ended or is gone; another one of its name is not it."""
        with self._asking(pod, absent=True, doing="get pod"):
            found: Any = self._core.read_namespaced_pod(pod, self.namespace, _request_timeout=_TIMEOUT_SECONDS)
            return found.metadata.uid != uid or found.status.phase in ("Succeeded", "Failed")
        return True

    def _pods(self, name: str) -> tuple[list[Any], str]:
        """A run's trainer pods, and the resource version at which they were so."""
        with self._asking(name, doing="list the pods of TrainingRun"):
            found: Any = self._core.list_namespaced_pod(self.namespace, label_selector=_selector(name), _request_timeout=_TIMEOUT_SECONDS)
            return found.items, found.metadata.resource_version

    def _pod_events(self, name: str, version: str) -> Iterator[dict[str, Any]]:
        """What happens to a run's trainer pods after a resource version, as `_events`."""
        return _watched(self._core.list_namespaced_pod, self.namespace, label_selector=_selector(name), resource_version=version)

    def _events(self, name: str, version: str) -> Iterator[dict[str, Any]]:
        """What happens to a run after a resource version, until the server ends the watch.

        Raises:
            WatchEnded: It broke off, or cannot be had; why is what the next look tells.
        """
        return _watched(
            self._api.list_namespaced_custom_object, *self._kind, field_selector=f"metadata.name={name}", resource_version=version
        )

    @contextlib.contextmanager
    def _writing(self, pod: str, *, follow: bool, **options: Any) -> Iterator[Any]:
        response: Any = self._core.read_namespaced_pod_log(
            pod,
            self.namespace,
            container=names.TRAINER_CONTAINER,
            follow=follow,
            _preload_content=False,
            _request_timeout=(_TIMEOUT_SECONDS, _SILENCE_SECONDS) if follow else _TIMEOUT_SECONDS,
            **{name: value for name, value in options.items() if value is not None},
        )
        try:
            yield response
        finally:
            response.release_conn()

    @property
    def _kind(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURAL

    @contextlib.contextmanager
    def _asking(self, name: str, *, absent: bool = False, doing: str = "touch TrainingRun") -> Iterator[None]:
        """Turn errors into sentences. With `absent`, what is not there, or not yet, is no error; `doing` stands before the name."""
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
                raise Refused(f"the cluster does not let you {doing} {self.namespace}/{name} ({error.reason})") from None
            raise Refused(f"the cluster refused: {_message(error)}") from None
        except (HTTPError, OSError) as error:
            raise Refused(
                f"the cluster does not answer ({type(error).__name__}); is the context of your kubeconfig the right one?"
            ) from None


def _watched(function: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[dict[str, Any]]:
    """The events that a list of the client's tells when it is watched, until the server ends the watch.

    Raises:
        WatchEnded: It broke off, or cannot be had.
    """
    from kubernetes.client.exceptions import ApiException
    from kubernetes.watch import Watch
    from urllib3.exceptions import HTTPError

    seconds = {"timeout_seconds": _WATCH_SECONDS, "_request_timeout": _WATCH_SECONDS + _TIMEOUT_SECONDS}
    stream: Any = Watch().stream(function, *arguments, **options, **seconds)
    try:
        # What is no event is a line that was cut off.
        yield from (event for event in stream if event is not None)
    except (ApiException, HTTPError, OSError):
        raise WatchEnded from None


def _selector(run: str) -> str:
    """What a run's trainer pods are found by."""
    return f"{names.LABEL_RUN}={run},{names.LABEL_ROLE}!={names.ROLE_PROBE}"


def _pause() -> None:
    time.sleep(_PAUSE_SECONDS)


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
