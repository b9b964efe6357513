"""Follows the TrainingRuns of a namespace, their pods, and the log of every trainer from its first line."""

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from halcyon_api import names
from halcyon_api.training_run import GROUP, PLURAL
from halcyon_demo.observations import Observations
from halcyon_demo.records import Pod, parse_line, parse_pod
from halcyon_demo.streams import Stream, documents
from halcyon_devcluster import Kubectl


class Watch:
    """Fills its observations while it is open. Use it as a context manager.

    Args:
        kubectl: kubectl against the cluster.
        namespace: Namespace of the runs.
    """

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self.observations = Observations()
        self._kubectl = kubectl
        self._namespace = namespace
        self._logs: dict[str, Stream] = {}
        self._lock = threading.Lock()
        self._open = True
        self._watches = [
            Stream(self._watch(f"{PLURAL}.{GROUP}"), self._read_runs, self._is_open),
            Stream(self._watch("pods", f"--selector={names.LABEL_RUN}"), self._read_pods, self._is_open),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all threads. The observations keep their content."""
        self._open = False
        for stream in self._watches:
            stream.close()
        with self._lock:
            logs = list(self._logs.values())
        for stream in logs:
            stream.close()

    def finish_logs(self, run: str) -> None:
        """Wait until the logs of a run are read completely; call it after all its processes have ended."""
        for pod in self.observations.pods(run):
            with self._lock:
                stream = self._logs.get(pod.uid)
            if stream is not None:
                stream.join()

    def _is_open(self) -> bool:
        return self._open

    def _watch(self, *what: str) -> list[str]:
        return self._command("get", *what, "--watch", "--output=json")

    def _command(self, *arguments: str) -> list[str]:
        return [
            str(self._kubectl.program),
            "--kubeconfig",
            str(self._kubectl.kubeconfig),
            "--namespace",
            self._namespace,
            *arguments,
        ]

    def _read_runs(self, lines: Iterator[str]) -> None:
        for document in documents(lines):
            self.observations.saw_run(document)

    def _read_pods(self, lines: Iterator[str]) -> None:
        for document in documents(lines):
            pod = self.observations.saw_pod(parse_pod(document, self.observations.clock()))
            if pod.started:
                self._follow(pod)

    def _follow(self, pod: Pod) -> None:
        with self._lock:
            if pod.uid in self._logs or not self._open:
                return
            log = _Log(self.observations, pod)
            command = self._command("logs", "--follow", f"--container={names.TRAINER_CONTAINER}", pod.name)
            self._logs[pod.uid] = Stream(command, log.read, lambda: self._open and log.unfinished())


class _Log:
    """The log of one pod.

    After a broken connection it is read again from its first line, so known lines are skipped.
    """

    def __init__(self, observations: Observations, pod: Pod) -> None:
        self._observations = observations
        self._pod = pod
        self._known = 0

    def read(self, lines: Iterator[str]) -> None:
        for number, text in enumerate(lines, start=1):
            if number <= self._known or not text.endswith("\n"):
                continue
            self._known = number
            line = parse_line(text)
            if line is not None and line.group == self._pod.group:  # not the log of a later pod of the same name
                self._observations.saw_line(line)

    def unfinished(self) -> bool:
        """Whether the container still runs by the observations, so that more lines can come."""
        return any(
            pod.uid == self._pod.uid and not (pod.ended or pod.being_deleted)
            for pod in self._observations.pods(self._pod.run)
        )
