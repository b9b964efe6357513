"""Observations of a run, as plain values: lines of the trainers' logs, pods, and the injected faults. Pure."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from halcyon_api import names

ProcessGroup = tuple[int, int, int]
"""A process group of a run: (attempt of the operator, restart of the JobSet inside the attempt, starts before it in the
same pods).
"""


@dataclass(frozen=True)
class LogLine:
    """One event of a trainer's log.

    Attributes:
        run: Name of the run.
        group: The process group that wrote it.
        process: Index of the process that wrote it.
        event: Name of the event.
        time: Seconds since 1970, with a precision of 1 ms.
        fields: All its fields.
    """

    run: str
    group: ProcessGroup
    process: int
    event: str
    time: float
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Steps done.

        Raises:
            KeyError: The event has no step.
        """
        return int(self.fields["step"])


def parse_line(text: str) -> LogLine | None:
    """Parse one line of a trainer's log; None for other output of the container."""
    try:
        fields = json.loads(text)
        return LogLine(
            run=fields["run"],
            group=(fields["attempt"], fields["restart"], fields.get("inPlace", 0)),
            process=fields["process"],
            event=fields["event"],
            time=parse_time(fields["time"]),
            fields=fields,
        )
    except (ValueError, TypeError, KeyError):
        return None


def parse_time(text: str) -> float:
    """Convert an RFC 3339 time to seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


@dataclass(frozen=True)
class Pod:
    """A trainer pod.

    Attributes:
        name: Its name.
        uid: Distinguishes it from later pods with the same name.
        run: Name of its run.
        group: Attempt and restart of its process groups.
        process: (slice, host); sorted like this, the pods have the order of JAX's process indices.
        seen_at: Seconds since 1970 when it was first seen.
        started: Whether its container runs or has ended, so that it has a log.
        ended: Whether its container has ended.
        leaving: Whether it is being deleted.
        trouble: Why its container does not start; empty if it does.
    """

    name: str
    uid: str
    run: str
    group: tuple[int, int]
    process: tuple[int, int]
    seen_at: float
    started: bool = False
    ended: bool = False
    being_deleted: bool = False
    trouble: str = ""


def parse_pod(document: dict[str, Any], seen_at: float) -> Pod:
    """Parse a pod document of the API server."""
    metadata = document["metadata"]
    marks: dict[str, str] = metadata.get("annotations", {}) | metadata.get("labels", {})
    states: list[dict[str, Any]] = [
        container["state"] for container in document.get("status", {}).get("containerStatuses", [])
    ]
    waiting = [state["waiting"] for state in states if "waiting" in state]
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        run=marks.get(names.LABEL_RUN, ""),
        group=(int(marks.get(names.LABEL_ATTEMPT, 0)), int(marks.get(names.JOBSET_RESTART, 0))),
        process=(int(marks.get(names.JOBSET_JOB_INDEX, 0)), int(marks.get(names.JOB_COMPLETION_INDEX, 0))),
        seen_at=seen_at,
        started=any("running" in state or "terminated" in state for state in states),
        ended=any("terminated" in state for state in states),
        being_deleted="deletionTimestamp" in metadata,
        trouble=next(
            (
                f"{reason['reason']}: {reason.get('message', '')}"
                for reason in waiting
                if reason["reason"] not in _PASSING
            ),
            "",
        ),
    )


_PASSING = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class Fault:
    """A fault that was injected into a run.

    Attributes:
        title: A short name.
        time: Seconds since 1970.
        restarts: Whether all processes must start again after it.
    """

    title: str
    time: float
    restarts: bool = True
