"""Everything that has been seen, in one place: threads write, the story reads and waits.

Nothing is concluded here. A reader gets tuples, which do not change under its hands.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from halcyon_api.status import TrainingRunStatus, parse_status
from halcyon_demo.records import LogLine, Pod
from halcyon_devcluster.waiting import holds_within

T = TypeVar("T")


class Failed(Exception):
    """The demo did not go as it should; the message is a sentence for the person who watches."""


@dataclass(frozen=True)
class Run:
    """A TrainingRun as the API server last showed it.

    Attributes:
        name: Its name.
        uid: What tells it from an earlier run of that name.
        status: Its status.
    """

    name: str
    uid: str
    status: TrainingRunStatus

    @property
    def complaint(self) -> str:
        """Why it will not go on by itself, if so."""
        for kind in ("Failed", "Stalled"):
            condition = self.status.condition(kind)
            if condition is not None and condition.status == "True":
                return f"{condition.reason}: {condition.message}"
        return ""


@dataclass
class Journal:
    """What has been seen so far of the runs of one namespace."""

    clock: Callable[[], float] = time.time
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _runs: dict[str, Run] = field(default_factory=dict[str, Run])
    _pods: dict[str, Pod] = field(default_factory=dict[str, Pod])
    _lines: list[LogLine] = field(default_factory=list[LogLine])

    def saw_run(self, document: dict[str, Any]) -> None:
        """Take note of a TrainingRun."""
        metadata = document["metadata"]
        with self._changed:
            self._runs[metadata["name"]] = Run(metadata["name"], metadata["uid"], parse_status(document.get("status")))
            self._changed.notify_all()

    def saw_pod(self, pod: Pod) -> Pod:
        """Take note of a pod; the time of its first sight stays."""
        with self._changed:
            known = self._pods.get(pod.uid)
            if known is not None:
                pod = Pod(**{**vars(pod), "seen_at": known.seen_at, "started": pod.started or known.started})
            self._pods[pod.uid] = pod
            self._changed.notify_all()
        return pod

    def saw_line(self, line: LogLine) -> None:
        """Take note of a line of a log."""
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def run(self, name: str) -> Run | None:
        """A run, if it was seen."""
        with self._changed:
            return self._runs.get(name)

    def pods(self, run: str) -> tuple[Pod, ...]:
        """All pods of a run that were ever seen, the oldest first."""
        with self._changed:
            return tuple(pod for pod in self._pods.values() if pod.run == run)

    def lines(self, run: str) -> tuple[LogLine, ...]:
        """All lines of a run's log in the order of their times."""
        with self._changed:
            return tuple(sorted((line for line in self._lines if line.run == run), key=lambda line: line.time))

    def wait(
        self,
        find: Callable[[], T | None],
        *,
        timeout_seconds: float,
        failure: Callable[[], str],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> T:
        """Return what `find` finds as soon as it finds something.

        Args:
            find: Looks at this journal; None while there is nothing.
            timeout_seconds: How long to wait, on the reference machine; longer on a slower one.
            failure: The sentence to fail with after that.
            meanwhile: Called while waiting, a few times a second; may raise to give up.

        Raises:
            Failed: Nothing was found in time.
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
