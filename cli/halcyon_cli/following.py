"""The pods of a run and what they write, read from the cluster."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from halcyon_api import names
from halcyon_api.status import AT_REST, parse_status
from halcyon_cli.cluster import Runs
from halcyon_cli.log_lines import LogLine, losses, merged, parse
from halcyon_cli.status_view import Host
from halcyon_cli.telling import Refused

_TAIL_LINES = 2000
_LOOK_SECONDS = 2.0


def read_run(runs: Runs, run: str) -> Iterator[LogLine]:
    """All lines that the pods of a run have written so far, in one order."""
    return merged(list(parse(runs.log(pod.metadata.name).splitlines(), pod.metadata.name)) for pod in runs.pods(run))


def follow_run(runs: Runs, run: str) -> Iterator[LogLine]:
    """The lines of all pods of a run as they come, those of later worlds too, until the run has ended and all are read."""
    lines: queue.Queue[LogLine | None] = queue.Queue()
    readers: dict[str, threading.Thread] = {}

    def read(pod: str) -> None:
        try:
            for line in parse(runs.follow(pod), pod):
                lines.put(line)
        except Refused:
            return  # the pod went away; what it was replaced by is followed
        finally:
            lines.put(None)

    while True:
        ended = parse_status(runs.get(run).get("status")).phase in AT_REST
        for pod in runs.pods(run):
            uid = pod.metadata.uid
            if uid not in readers and _has_begun(pod):
                readers[uid] = threading.Thread(target=read, args=(pod.metadata.name,), daemon=True)
                readers[uid].start()
        if ended and not any(reader.is_alive() for reader in readers.values()) and lines.empty():
            return
        yield from come(lines, _LOOK_SECONDS)


def come(lines: queue.Queue[LogLine | None], seconds: float, clock: Callable[[], float] = time.monotonic) -> list[LogLine]:
    """The lines that come in the next seconds, in the order of time; however many come, pods are looked for after it."""
    until = clock() + seconds
    found: list[LogLine] = []
    with contextlib.suppress(queue.Empty):
        while (left := until - clock()) > 0:
            line = lines.get(timeout=left)
            if line is not None:
                found.append(line)
    return sorted(found, key=lambda line: line.time)


def hosts_of(pods: Sequence[Any], now: datetime) -> list[Host]:
    """The pods as the view shows them."""
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
    """The last losses that the first process of the newest world wrote."""
    first = [pod for pod in pods if _index(pod, names.JOBSET_JOB_INDEX) == 0 and _index(pod, names.JOB_COMPLETION_INDEX) == 0]
    if not first:
        return []
    newest = max(first, key=lambda pod: pod.metadata.creation_timestamp)
    return losses(parse(runs.log(newest.metadata.name, tail=_TAIL_LINES).splitlines(), newest.metadata.name))


def _state(pod: Any) -> str:
    if pod.metadata.deletion_timestamp is not None:
        return "Terminating"
    for container in pod.status.container_statuses or ():
        if container.state.waiting is not None and container.state.waiting.reason:
            return str(container.state.waiting.reason)
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return str(condition.reason or "Unschedulable")
    return str(pod.status.phase)


def _has_begun(pod: Any) -> bool:
    return any(one.state.running is not None or one.state.terminated is not None for one in pod.status.container_statuses or ())


def _index(pod: Any, label: str) -> int:
    value = (pod.metadata.labels or {}).get(label, "")
    return int(value) if value.isdecimal() else -1
