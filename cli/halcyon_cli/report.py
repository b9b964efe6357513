"""Where the time of a run went, computed from its status. Pure.

A run is a sequence of process groups. The account of each begins when the previous one ended, so the accounts in order
are the time line of the run. Suspension is in none of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from halcyon_api.accounts import divide
from halcyon_api.status.goodput import GoodputSeconds
from halcyon_api.status.run_status import HistoryEntry, TrainingRunStatus

ORDER = (
    "operator_delay",
    "capacity_wait",
    "startup",
    "join",
    "data_wait",
    "restore",
    "compile",
    "evaluation",
    "productive_step",
    "lost_work",
    "save_blocking",
    "other",
)
"""The causes in the order in which they occur in a process group.

A cause that occurs many times is drawn once, as one block.
"""

MEANINGS = {
    "productive_step": "steps that were not repeated",
    "startup": "image, container, interpreter, imports",
    "join": "processes connected",
    "restore": "state built or restored",
    "compile": "compilation, first step",
    "data_wait": "waited for data",
    "save_blocking": "blocked by a checkpoint",
    "evaluation": "evaluated",
    "lost_work": "steps that had to be repeated",
    "capacity_wait": "waited for hardware",
    "operator_delay": "old pods ended, new pods created",
    "other": "shutdown, or not observed",
}


@dataclass(frozen=True)
class ProcessGroup:
    """One process group on the time line, or the sum of those that are no longer in the history."""

    name: str
    """``attempt.restart``; ``earlier`` for those no longer in the history; ``next`` for time before a new one starts.
    """
    seconds: GoodputSeconds
    from_step: int | None = None
    to_step: int | None = None
    ended: str = ""
    """The cause of its end; empty while it runs."""
    begins_seconds: float = 0.0
    """Seconds since the start of the run, without suspension."""


@dataclass(frozen=True)
class Report:
    """Where the time of a run went."""

    run: str
    phase: str
    started_at: str
    groups: tuple[ProcessGroup, ...]
    seconds: GoodputSeconds
    """By cause, over all process groups."""
    ratio: float
    lost_steps: int
    restarts: int
    suspended_seconds: float

    @property
    def wall_seconds(self) -> float:
        """The sum over all causes: seconds from the first start until the last update of the accounts, without
        suspension.
        """
        return self.seconds.total


def read_report(run: str, status: TrainingRunStatus) -> Report | None:
    """Return the report of a run, or None before its first attempt."""
    goodput = status.goodput
    if goodput is None or status.started_at is None:
        return None
    groups: list[ProcessGroup] = []
    if goodput.carried.seconds.total > 0:
        groups.append(ProcessGroup("earlier", goodput.carried.seconds, ended="various"))
    open_one: HistoryEntry | None = None
    for index, entry in enumerate(status.history):
        if entry.seconds is None:
            open_one = entry
            break
        seconds, _ = divide(entry, status.history[index + 1 :])
        groups.append(ProcessGroup(_name(entry), seconds, entry.from_step, entry.to_step, entry.cause or "unknown"))
    if open_one is not None:
        step = status.progress.step if status.progress is not None and open_one.from_step is not None else None
        groups.append(
            ProcessGroup(_name(open_one), goodput.current.seconds, open_one.from_step, step, open_one.cause or "")
        )
    elif goodput.current.seconds.total > 0:
        groups.append(ProcessGroup("next", goodput.current.seconds))
    begins = accumulate((group.seconds.total for group in groups), initial=0.0)
    return Report(
        run=run,
        phase=status.phase,
        started_at=status.started_at,
        groups=tuple(replace(group, begins_seconds=begin) for group, begin in zip(groups, begins, strict=False)),
        seconds=goodput.seconds,
        ratio=goodput.ratio,
        lost_steps=goodput.lost_steps,
        restarts=status.restarts.total,
        suspended_seconds=goodput.suspended_seconds,
    )


def _name(entry: HistoryEntry) -> str:
    return f"{entry.attempt}.{entry.restart}"
