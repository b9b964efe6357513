"""Follows the TrainingRuns of a namespace, their pods, and the log of every trainer from its first line."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self

from kubernetes.client import ApiClient

from halcyon_cli.cluster import Runs
from halcyon_cli.output import Rejected
from halcyon_demo.observations import Observations
from halcyon_demo.records import Pod, parse_line, parse_pod
from halcyon_devcluster import Kubectl
from halcyon_devcluster.machine import limit

_PAUSE_SECONDS = 0.5


class Watch:
    """Fills its observations while it is open, also across a restart of the API server. Use it as a context manager.

    Args:
        kubectl: kubectl against the cluster.
        namespace: Namespace of the runs.
    """

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self.observations = Observations()
        self._cluster = Runs(namespace=namespace, kubeconfig=str(kubectl.kubeconfig))
        self._logs: dict[str, threading.Thread] = {}
        self._known = Counter[str]()
        """Lines of each pod's log that were read."""
        self._closed = threading.Event()
        self._read(self._cluster.all_changes, self.observations.saw_run)
        self._read(lambda: self._cluster.pod_changes(None), self._saw_pod)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take in no more. The observations keep their content."""
        self._closed.set()

    def finish_logs(self, run: str) -> None:
        """Wait until the logs of a run are read completely; call it after all its processes have ended."""
        for pod in self.observations.pods(run):
            if pod.uid in self._logs:
                self._logs[pod.uid].join(limit(10))

    def _read(self, look: Callable[[], Iterable[Any]], take: Callable[[Any], object]) -> threading.Thread:
        """Start a thread that takes all that a look finds. It looks again after the API server has not answered."""

        def read() -> None:
            while not self._closed.is_set():
                try:
                    for found in look():
                        if self._closed.is_set():
                            return
                        take(found)
                    return
                except Rejected:
                    self._closed.wait(_PAUSE_SECONDS)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def _saw_pod(self, found: Any) -> None:
        document: Any = ApiClient().sanitize_for_serialization(found)
        pod = self.observations.saw_pod(parse_pod(document, self.observations.clock()))
        if pod.started and pod.uid not in self._logs:
            self._logs[pod.uid] = self._read(partial(self._lines, pod), partial(self._saw_line, pod))

    def _lines(self, pod: Pod) -> Iterator[str]:
        """The lines of a log that were not read before."""
        for line in islice(self._cluster.follow(pod.name, pod.uid), self._known[pod.uid], None):
            self._known[pod.uid] += 1
            yield line

    def _saw_line(self, pod: Pod, text: str) -> None:
        line = parse_line(text)
        if line is not None and line.group[:2] == pod.group:  # not the log of a later pod of the same name
            self.observations.saw_line(line)
