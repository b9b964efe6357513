"""Everything that was observed, in one place: threads write, the story reads and waits.

The observations only stores. Readers get tuples, which do not change while they are used.
"""

import threading
import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

from halcyon_api.status.run_status import TrainingRunStatus, parse_status
from halcyon_demo.records import LogLine, Pod
from halcyon_devcluster.waiting import holds_within

T = TypeVar("T")

_time = attrgetter("time")


class Failed(Exception):
    """The demo failed; the message is one sentence for the user."""


@dataclass(frozen=True)
class Run:
    """A TrainingRun as it was last observed.

    Attributes:
        name: Its name.
        uid: Distinguishes it from an earlier run with the same name.
        status: Its status.
    """

    name: str
    uid: str
    status: TrainingRunStatus

    @property
    def stop_reason(self) -> str:
        """The reason why the run cannot continue by itself (condition Failed or Stalled); empty if it can."""
        for kind in ("Failed", "Stalled"):
            condition = self.status.condition(kind)
            if condition is not None and condition.status == "True":
                return f"{condition.reason}: {condition.message}"
        return ""


@dataclass
class Observations:
    """What was observed so far of the runs of one namespace. Thread-safe."""

    clock: Callable[[], float] = time.time
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _runs: dict[str, Run] = field(default_factory=dict[str, Run])
    _pods: dict[str, Pod] = field(default_factory=dict[str, Pod])
    _lines: dict[str, list[LogLine]] = field(default_factory=dict[str, list[LogLine]])
    """Lines by run, sorted by time: waits read them after every change."""

    def saw_run(self, document: dict[str, Any]) -> None:
        """Store the newest state of a TrainingRun."""
        metadata = document["metadata"]
        with self._changed:
            self._runs[metadata["name"]] = Run(metadata["name"], metadata["uid"], parse_status(document.get("status")))
            self._changed.notify_all()

    def saw_pod(self, pod: Pod) -> Pod:
        """Store the newest state of a pod and return it with the time when it was first seen."""
        with self._changed:
            known = self._pods.get(pod.uid)
            if known is not None:
                pod = Pod(**{**vars(pod), "seen_at": known.seen_at, "started": pod.started or known.started})
            self._pods[pod.uid] = pod
            self._changed.notify_all()
        return pod

    def saw_line(self, line: LogLine) -> None:
        """Add a line of a log."""
        with self._changed:
            insort(self._lines.setdefault(line.run, []), line, key=_time)
            self._changed.notify_all()

    def run(self, name: str) -> Run | None:
        """Return a run, or None if it was never seen."""
        with self._changed:
            return self._runs.get(name)

    def pods(self, run: str) -> tuple[Pod, ...]:
        """Return all pods of a run that were ever seen, in the order of first sight."""
        with self._changed:
            return tuple(pod for pod in self._pods.values() if pod.run == run)

    def lines(self, run: str) -> tuple[LogLine, ...]:
        """Return all log lines of a run, sorted by time."""
        with self._changed:
            return tuple(self._lines.get(run, ()))

    def wait(
        self,
        find: Callable[[], T | None],
        *,
        timeout_seconds: float,
        failure: Callable[[], str],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> T:
        """Wait until `find` returns a value other than None, and return it.

        Args:
            find: Reads this observations.
            timeout_seconds: Longest wait on the reference machine; longer on a slower one.
            failure: Returns the sentence of the error after the timeout.
            meanwhile: Called while waiting, a few times a second; may raise to stop waiting.

        Raises:
            Failed: The timeout passed.
        """
        found: list[T] = []

        def finds() -> bool:
            one = find()
            if one is None:
                meanwhile()
            else:
                found.append(one)
            return bool(found)

        if not holds_within(finds, timeout_seconds, interval_seconds=0.2, pause=self._wait_for_change):
            raise Failed(failure())
        return found[0]

    def _wait_for_change(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)
