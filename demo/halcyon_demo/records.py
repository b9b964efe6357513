"""What is seen of a run, as plain values: lines of the trainers' logs, pods, and the faults that were made. Pure."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from halcyon_api import names

World = tuple[int, int]
"""One life of all processes of a run: the operator's attempt, and the JobSet's restart inside it."""


@dataclass(frozen=True)
class LogLine:
    """One event of a trainer's log.

    Attributes:
        run: Name of the run.
        world: Which life of the processes wrote it.
        process: Index of the process that wrote it.
        event: Name of the event.
        time: When, in seconds since the epoch, to the millisecond.
        fields: All its fields.
    """

    run: str
    world: World
    process: int
    event: str
    time: float
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Steps done, where the event has them."""
        return int(self.fields["step"])


def parse_line(text: str) -> LogLine | None:
    """Read one line of a trainer's log; None for anything else that a container may print."""
    try:
        fields = json.loads(text)
        return LogLine(
            run=fields["run"],
            world=(fields["attempt"], fields["restart"]),
            process=fields["process"],
            event=fields["event"],
            time=parse_time(fields["time"]),
            fields=fields,
        )
    except (ValueError, TypeError, KeyError):
        return None


def parse_time(text: str) -> float:
    """Turn an RFC 3339 time into seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


@dataclass(frozen=True)
class Pod:
    """A trainer's pod.

    Attributes:
        name: Its name.
        uid: What tells it from later pods of that name.
        run: Name of its run.
        world: Which life of the processes it belongs to.
        process: Slice and host, joined: the order in which JAX counts the processes.
        seen_at: When it was first seen, in seconds since the epoch.
        started: Whether its container runs or ran, so that it has a log.
        ended: Whether its container has ended.
        leaving: Whether it is being deleted.
        trouble: Why its container does not start, if so.
    """

    name: str
    uid: str
    run: str
    world: World
    process: tuple[int, int]
    seen_at: float
    started: bool = False
    ended: bool = False
    leaving: bool = False
    trouble: str = ""


def parse_pod(document: dict[str, Any], seen_at: float) -> Pod:
    """Read a pod as the API server gives it."""
    metadata = document["metadata"]
    marks: dict[str, str] = metadata.get("annotations", {}) | metadata.get("labels", {})
    states: list[dict[str, Any]] = [container["state"] for container in document.get("status", {}).get("containerStatuses", [])]
    waiting = [state["waiting"] for state in states if "waiting" in state]
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        run=marks.get(names.LABEL_RUN, ""),
        world=(int(marks.get(names.LABEL_ATTEMPT, 0)), int(marks.get(names.JOBSET_RESTART, 0))),
        process=(int(marks.get(names.JOBSET_JOB_INDEX, 0)), int(marks.get(names.JOB_COMPLETION_INDEX, 0))),
        seen_at=seen_at,
        started=any("running" in state or "terminated" in state for state in states),
        ended=any("terminated" in state for state in states),
        leaving="deletionTimestamp" in metadata,
        trouble=next((f"{reason['reason']}: {reason.get('message', '')}" for reason in waiting if reason["reason"] not in _PASSING), ""),
    )


_PASSING = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class Fault:
    """Something that was done to a run.

    Attributes:
        title: In a few words.
        time: When, in seconds since the epoch.
        restarts: Whether all processes must start again after it.
    """

    title: str
    time: float
    restarts: bool = True
