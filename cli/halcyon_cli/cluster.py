"""Requests of the command line to the cluster: TrainingRuns, their pods and their logs."""

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from halcyon_api import names
from halcyon_api.package import install
from halcyon_api.training_run import GROUP, PLURAL, VERSION
from halcyon_cli.output import Rejected
from halcyon_cli.watching import Document, WatchEnded, documents, each

_TIMEOUT_SECONDS = 20
_WATCH_SECONDS = 30
"""How long the server keeps a watch open; then the run is read again, changed or not."""
_PAUSE_SECONDS = 1.0
"""Pause after a watch or a log that broke off or was forbidden."""
_SILENCE_SECONDS = 60
"""A log is requested again after this time without data, because a dead connection raises no error."""
_OVERLAP_SECONDS = 30
"""A log that is requested again starts this much earlier; lines already read are skipped by their times."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT")
_READING = "read the log of pod"


class Runs:
    """TrainingRuns of one namespace.

    Args:
        context: Context of the kubeconfig; None: the current one.
        namespace: Namespace of the runs; None: that of the context.
        kubeconfig: File with the context; None: the usual one.

    Raises:
        Rejected: No cluster is configured, or the Kubernetes client is not installed.
    """

    def __init__(self, context: str | None = None, namespace: str | None = None, kubeconfig: str | None = None) -> None:
        try:
            from kubernetes import client, config
        except ModuleNotFoundError:
            raise Rejected(f"asking a cluster needs the Kubernetes client; install it with: {install('cli')}") from None
        settings = client.Configuration()
        try:
            found: Any = config.list_kube_config_contexts(kubeconfig)
            config.load_kube_config(kubeconfig, context, settings)
        except config.ConfigException as error:
            raise Rejected(f"no cluster is configured ({error}); set KUBECONFIG, or give --context") from None
        connection = client.ApiClient(settings)
        self._api, self._core = client.CustomObjectsApi(connection), client.CoreV1Api(connection)
        contexts, active = found
        chosen = next((one for one in contexts if one["name"] == context), active)
        self.namespace = namespace or chosen["context"].get("namespace") or "default"

    def get(self, name: str) -> Document:
        """Return a run's document.

        Raises:
            Rejected: The run does not exist, or the cluster does not answer or forbids it.
        """
        with self._errors_as_sentences(name):
            return self._ask(self._api.get_namespaced_custom_object, name)

    def find(self, name: str) -> Document | None:
        """Return a run's document, or None if there is no such run.

        Raises:
            Rejected: The cluster does not answer or forbids it.
        """
        with self._errors_as_sentences(name, absent=True):
            return self._ask(self._api.get_namespaced_custom_object, name)
        return None

    def changes(self, name: str) -> Iterator[Document]:
        """Yield a run's document now, after every change, and at least every 30 seconds, without end.

        Raises:
            Rejected: The run does not exist (any more), or the cluster does not answer or forbids it.
        """
        chosen = f"metadata.name={name}"
        return documents(lambda: self.get(name), lambda version: self._events(version, field_selector=chosen), _pause)

    def all_changes(self) -> Iterator[Document]:
        """Yield all runs of the namespace as they are now, then each new or changed one, and all again every 30
        seconds.

        Raises:
            Rejected: The cluster does not answer or forbids it.
        """

        def look() -> tuple[list[Document], str]:
            with self._errors_as_sentences("*"):
                found = self._ask(self._api.list_namespaced_custom_object)
            return found["items"], found["metadata"]["resourceVersion"]

        return each(look, self._events, _pause)

    def rejection_reason(self, name: str, document: Document) -> str | None:
        """Return why the API server, with all its admission policies, would reject a new document for a run. Changes
        nothing (dry run).

        Empty if it would accept the document. None: the user may not ask.

        Raises:
            Rejected: The cluster does not answer.
        """
        from kubernetes.client.exceptions import ApiException

        while True:
            with self._errors_as_sentences(name):
                try:
                    self._ask(self._api.replace_namespaced_custom_object, name, document, dry_run="All")
                except ApiException as error:
                    detail = _message(error)
                    if error.status in (400, 422) or (
                        error.status == 403 and "denied" in detail
                    ):  # rejected by the schema, or by a policy
                        return detail
                    if error.status not in (403, 409):
                        raise
                    if error.status == 403:
                        return None
                    document = document | {"metadata": self.get(name)["metadata"]}  # its status was written meanwhile
                    continue
            return ""

    def patch(self, name: str, patch: Document) -> Document:
        """Merge a patch into a run and return the new document.

        Raises:
            Rejected: The run does not exist, or the cluster does not answer, forbids the patch or rejects it.
        """
        with self._errors_as_sentences(name):
            return self._ask(
                self._api.patch_namespaced_custom_object, name, patch, field_manager=names.PLUGIN_FIELD_MANAGER
            )

    def pods(self, name: str) -> list[Any]:
        """Return a run's trainer pods, sorted by name.

        Raises:
            Rejected: The cluster does not answer or forbids it.
        """
        return sorted(self._pods(name)[0], key=lambda pod: pod.metadata.name)

    def execute(self, pod: str, command: list[str]) -> str:
        """Run a command in the trainer of a pod, and return what it prints.

        Raises:
            Rejected: The cluster does not answer or forbids it, or the command fails.
        """
        from kubernetes.stream import stream

        with self._errors_as_sentences(pod, doing="run a command in pod"):
            # A client of its own: the stream replaces the function that sends the requests of its client.
            core: Any = type(self._core)(type(self._core.api_client)(self._core.api_client.configuration))
            answer: Any = stream(
                core.connect_get_namespaced_pod_exec, pod, self.namespace, container=names.TRAINER_CONTAINER,
                command=command,
                stdin=False, stdout=True, stderr=True, tty=False, _preload_content=False,
                _request_timeout=_TIMEOUT_SECONDS,
            )  # fmt: skip
            try:
                answer.run_forever(timeout=_TIMEOUT_SECONDS)
                printed, problem = answer.read_stdout(timeout=1).strip(), answer.read_stderr(timeout=1).strip()
                if answer.is_open() or answer.returncode != 0:
                    raise Rejected(f"pod {pod}: {problem or printed or 'the command did not end in time'}")
            finally:
                answer.close()
            return printed

    def pod_changes(self, name: str | None) -> Iterator[Any]:
        """Yield a run's trainer pods as they are now, then each new or changed one, and all again every 30 seconds.
        Without a name: those of all runs of the namespace.

        Raises:
            Rejected: The cluster does not answer or forbids it.
        """
        selector = _selector(name)
        pods: Any = self._core.list_namespaced_pod
        return each(
            lambda: self._pods(name),
            lambda version: _watched(pods, self.namespace, label_selector=selector, resource_version=version),
            _pause,
        )

    def log(self, pod: str, *, tail: int | None = None) -> str:
        """Return the log of a pod's trainer so far; empty if the trainer has not started or the pod was deleted.

        Raises:
            Rejected: The cluster does not answer or forbids it.
        """
        with (
            self._errors_as_sentences(pod, absent=True, doing=_READING),
            self._open_log(pod, follow=False, tail_lines=tail) as response,
        ):
            return response.data.decode("utf-8", "replace")
        return ""

    def follow(self, pod: str, uid: str) -> Iterator[str]:
        """Yield the log lines of a pod's trainer as they arrive, until the pod has ended or is deleted.

        If the log breaks off, it continues at the first unread line.

        Raises:
            Rejected: The cluster forbids it, or does not answer the request for the pod.
        """
        last, heard_at = "", 0.0
        while True:
            over = self._is_over(pod, uid)  # read before the log: a pod that ends during the read may have more lines
            recent = None if not last else math.ceil(time.monotonic() - heard_at) + _OVERLAP_SECONDS
            before = last
            for line in self._lines(pod, recent):
                at, _, text = line.partition(" ")
                if _TIME.match(at) is None:
                    if over:
                        # the kubelet's message that it has no log; while the pod runs, the next read may get the log
                        yield line
                elif at > before:  # times of one node in one format, so comparing texts compares times
                    last, heard_at = at, time.monotonic()
                    yield text
            if over:
                return
            _pause()

    def _lines(self, pod: str, recent_seconds: int | None) -> Iterator[str]:
        """Yield the lines of a pod's log, each after the kubelet's time, until the log ends or breaks off.

        Raises:
            Rejected: The cluster forbids it.
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        rest = b""
        with self._errors_as_sentences(pod, doing=_READING):
            try:
                with self._open_log(pod, follow=True, timestamps=True, since_seconds=recent_seconds) as response:
                    for piece in response.stream(amt=None):
                        *lines, rest = (rest + piece).split(b"\n")
                        yield from (line.decode("utf-8", "replace") for line in lines)
            except ApiException as error:
                if error.status in (401, 403):
                    raise
                return  # the container has not started, the pod was deleted, or its node does not answer
            except (HTTPError, OSError):
                return  # drops `rest`: the next request returns the cut line complete
        if rest:
            yield rest.decode("utf-8", "replace")

    def _ask(self, request: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return the answer to a request about the TrainingRuns of the namespace."""
        return request(*self._kind, *arguments, _request_timeout=_TIMEOUT_SECONDS, **options)

    def _is_over(self, pod: str, uid: str) -> bool:
        """Whether the pod with this uid has ended or was deleted."""
        with self._errors_as_sentences(pod, absent=True, doing="get pod"):
            found: Any = self._core.read_namespaced_pod(pod, self.namespace, _request_timeout=_TIMEOUT_SECONDS)
            return found.metadata.uid != uid or found.status.phase in ("Succeeded", "Failed")
        return True

    def _pods(self, name: str | None) -> tuple[list[Any], str]:
        """Return a run's trainer pods and the resource version of the list."""
        with self._errors_as_sentences(name or "*", doing="list the pods of TrainingRun"):
            found: Any = self._core.list_namespaced_pod(
                self.namespace, label_selector=_selector(name), _request_timeout=_TIMEOUT_SECONDS
            )
            return found.items, found.metadata.resource_version

    def _events(self, version: str, **options: Any) -> Iterator[Document]:
        """Yield the watch events of runs after a resource version, until the server ends the watch.

        Raises:
            WatchEnded: The watch broke off or could not be opened; the next read of the run reports the reason.
        """
        return _watched(
            self._api.list_namespaced_custom_object,
            *self._kind,
            resource_version=version,
            **options,
        )

    @contextlib.contextmanager
    def _open_log(self, pod: str, *, follow: bool, **options: Any) -> Iterator[Any]:
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
    def _errors_as_sentences(
        self, name: str, *, absent: bool = False, doing: str = "touch TrainingRun"
    ) -> Iterator[None]:
        """Turn errors of the block into sentences.

        Args:
            name: Name of the run or pod, for the sentence.
            absent: If true, a missing object (400, 404) is not an error: the block just ends.
            doing: Verb and object of the sentence, before the name.

        Raises:
            Rejected: The request failed.
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            if absent and error.status in (400, 404):
                return
            if error.status == 404:
                raise Rejected(
                    f"there is no TrainingRun {name} in namespace {self.namespace}; list them with: kubectl get "
                    "trainingruns -A"
                ) from None
            if error.status in (401, 403):
                raise Rejected(
                    f"the cluster does not let you {doing} {self.namespace}/{name} ({error.reason})"
                ) from None
            raise Rejected(f"the cluster rejected the request: {_message(error)}") from None
        except (HTTPError, OSError) as error:
            raise Rejected(
                f"the cluster does not answer ({type(error).__name__}); is the context of your kubeconfig the right "
                "one?"
            ) from None


def _watched(function: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Document]:
    """Yield the events of a watch on one of the client's list functions, until the server ends the watch.

    Raises:
        WatchEnded: The watch broke off or could not be opened.
    """
    from kubernetes.client.exceptions import ApiException
    from kubernetes.watch import Watch
    from urllib3.exceptions import HTTPError

    seconds = {"timeout_seconds": _WATCH_SECONDS, "_request_timeout": _WATCH_SECONDS + _TIMEOUT_SECONDS}
    stream: Any = Watch().stream(function, *arguments, **options, **seconds)
    try:
        # The client yields None for a line that was cut off.
        yield from (event for event in stream if event is not None)
    except (ApiException, HTTPError, OSError):
        raise WatchEnded from None


def _selector(run: str | None) -> str:
    """Return the label selector of a run's trainer pods; None: of those of all runs."""
    run_label = names.LABEL_RUN if run is None else f"{names.LABEL_RUN}={run}"
    return f"{run_label},{names.LABEL_ROLE} notin ({names.ROLE_PROBE},{names.ROLE_GUARD})"


def _pause() -> None:
    time.sleep(_PAUSE_SECONDS)


def _message(error: Any) -> str:
    """Return the message in the API server's error, or its status and reason if it has none."""
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.status} {error.reason}"
