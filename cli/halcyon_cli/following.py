"""Reads the pods of a run and their logs from the cluster, and merges the logs of all processes into one.

Every process writes JSON lines with the time, its process group (attempt, restart) and its index. Libraries write other
text in between, which belongs to the line before it. Lines are sorted by time, as the clocks of the nodes are close
enough; lines of one process keep their order.
"""

import contextlib
import heapq
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from rich.text import Text

from halcyon_api import names
from halcyon_api.local_times import local_time
from halcyon_api.status.run_status import AT_REST, parse_status
from halcyon_cli.cluster import Runs
from halcyon_cli.status_view import Host

_COMMON = ("event", "time", "run", "attempt", "restart", "process", "step")
_STYLES = {
    "error": "bold red",
    "checkpointFailed": "red",
    "exportFailed": "red",
    "warning": "yellow",
    "fallback": "yellow",
    "headRebuilt": "yellow",
    "preempted": "yellow",
}
_QUIET = {"start", "joined", "restored", "compiled", "checkpoint"}
_TAIL_LINES = 2000
_WINDOW_SECONDS = 2.0
"""Lines that arrive within one window are sorted by time."""


@dataclass(frozen=True)
class LogLine:
    """One line of one process."""

    time: str
    """RFC 3339, always in the same format, so that comparing texts compares times."""
    pod: str
    text: str
    fields: dict[str, Any]
    """Empty for a line that is not JSON."""

    @property
    def event(self) -> str:
        """The kind of the line; empty for text from libraries."""
        return str(self.fields.get("event", ""))

    @property
    def step(self) -> int | None:
        """Steps done; None if the line does not report them."""
        step = self.fields.get("step")
        return step if isinstance(step, int) else None


def parse(lines: Iterable[str], pod: str) -> Iterator[LogLine]:
    """Yield the lines of one pod's log; a line without a time gets the time of the line before it."""
    time = ""
    for line in lines:
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError:
            fields = {}
        if not isinstance(fields, dict) or not isinstance(fields.get("time"), str):
            fields = {}
        time = max(time, fields.get("time", time))
        yield LogLine(time, pod, line, fields)


def merged(logs: Iterable[Iterable[LogLine]]) -> Iterator[LogLine]:
    """Yield the lines of several pods, sorted by time."""
    return heapq.merge(*logs, key=lambda line: line.time)


def losses(lines: Iterable[LogLine]) -> list[float]:
    """Return the losses in the order of the steps; of a repeated step, the last loss."""
    found = {line.step: line.fields.get("loss") for line in lines if line.event == "step" and line.step is not None}
    return [float(loss) for _, loss in sorted(found.items()) if isinstance(loss, int | float)]


def shown(line: LogLine) -> Text:
    """Return a line as a terminal shows it: local time, ``attempt.restart/process``, step, event, and the other
    fields.
    """
    time = local_time(line.time, date=False)
    if not line.fields:
        return Text(f"{time:8} {'':24} {line.text}", "dim")
    fields = line.fields
    who = f"{fields.get('attempt', 0)}.{fields.get('restart', 0)}/{fields.get('process', 0)}"
    step = "" if line.step is None else str(line.step)
    rest = " ".join(f"{name}={_value(value)}" for name, value in fields.items() if name not in _COMMON)
    text = Text(f"{time} {who:>8} {step:>8} ", "dim")
    text.append(f"{line.event:<10} ", _STYLES.get(line.event, "cyan" if line.event in _QUIET else "default"))
    return text.append(rest, _STYLES.get(line.event, "default"))


def _value(value: Any) -> str:
    return f"{value:z.6g}" if isinstance(value, float) else str(value)


QueueItem = LogLine | Callable[[], object]
"""What the threads put into the queue: log lines, and what the reader of the queue does at another event."""


def read_run(runs: Runs, run: str) -> Iterator[LogLine]:
    """Yield all lines that the pods of a run have written so far, sorted by time."""
    return merged(list(parse(runs.log(pod.metadata.name).splitlines(), pod.metadata.name)) for pod in runs.pods(run))


def follow_run(runs: Runs, run: str) -> Iterator[LogLine]:
    """Yield the lines of all pods of a run as they arrive, those of later process groups too, until the run has ended
    and all are read.

    Raises:
        Rejected: The run was deleted, or the cluster does not answer or forbids it.
    """
    heard: queue.Queue[QueueItem] = queue.Queue()
    known: set[str] = set()
    reading: set[str] = set()
    ended = False
    failure: Exception | None = None

    def listen(items: Iterator[QueueItem]) -> None:
        """Start a thread that puts all items into the queue."""

        def tell() -> None:
            try:
                for item in items:
                    heard.put(item)
            except Exception as error:
                heard.put(partial(fail, error))

        threading.Thread(target=tell, daemon=True).start()

    def read(pod: Any) -> None:
        """Start to read the log of a new pod whose container has started."""
        name, uid = pod.metadata.name, pod.metadata.uid
        if uid not in known and _has_begun(pod):
            known.add(uid)
            reading.add(uid)
            listen(itertools.chain(parse(runs.follow(name, uid), name), [partial(reading.discard, uid)]))

    def change(document: dict[str, Any]) -> None:
        nonlocal ended
        ended = parse_status(document.get("status")).phase in AT_REST

    def fail(error: Exception) -> None:
        nonlocal failure
        failure = error

    listen(partial(change, document) for document in runs.changes(run))
    listen(partial(read, pod) for pod in runs.pod_changes(run))
    while True:
        yield from come(heard, _WINDOW_SECONDS)
        if failure is not None:
            raise failure
        if ended and not reading and heard.empty():
            for pod in runs.pods(run):  # the watch may not have reported the last pods yet
                read(pod)
            if not reading:
                return


def come(heard: queue.Queue[QueueItem], seconds: float, clock: Callable[[], float] = time.monotonic) -> list[LogLine]:
    """Return the lines that arrive within `seconds`, sorted by time. Calls any other item at once."""
    until = clock() + seconds
    found: list[LogLine] = []
    with contextlib.suppress(queue.Empty):
        while (left := until - clock()) > 0:
            item = heard.get(timeout=left)
            if isinstance(item, LogLine):
                found.append(item)
            else:
                item()
    return sorted(found, key=lambda line: line.time)


def hosts_of(pods: Sequence[Any], now: datetime) -> list[Host]:
    """Return the pods as the view of a run shows them."""
    return [
        Host(
            pod=pod.metadata.name,
            node=pod.spec.node_name or "-",
            state=_state(pod),
            age_seconds=max(0.0, (now - pod.metadata.creation_timestamp).total_seconds()),
        )
        for pod in pods
    ]


def last_losses(runs: Runs, pods: Sequence[Any]) -> list[float]:
    """Return the last losses that process 0 of the newest process group wrote, from the last 2000 lines of its log."""
    first = [
        pod for pod in pods if _index(pod, names.JOBSET_JOB_INDEX) == 0 and _index(pod, names.JOB_COMPLETION_INDEX) == 0
    ]
    if not first:
        return []
    newest = max(first, key=lambda pod: pod.metadata.creation_timestamp)
    return losses(parse(runs.log(newest.metadata.name, tail=_TAIL_LINES).splitlines(), newest.metadata.name))


def _state(pod: Any) -> str:
    if pod.metadata.deletion_timestamp is not None:
        return "Terminating"
    for container in pod.status.container_statuses or ():
        if container.state.waiting and container.state.waiting.reason:
            return str(container.state.waiting.reason)
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return str(condition.reason or "Unschedulable")
    return str(pod.status.phase)


def _has_begun(pod: Any) -> bool:
    return any(
        one.state.running is not None or one.state.terminated is not None for one in pod.status.container_statuses or ()
    )


def _index(pod: Any, label: str) -> int:
    value = (pod.metadata.labels or {}).get(label, "")
    return int(value) if value.isdecimal() else -1
