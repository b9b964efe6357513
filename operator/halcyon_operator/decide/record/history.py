"""Writes the history of a run: a bounded list with one entry for each process group.

Sums keep the seconds of entries that are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from halcyon_api.accounts import divide
from halcyon_api.ends import EndCause
from halcyon_api.status.goodput import CarriedGoodput, Goodput, GoodputSeconds
from halcyon_api.status.progress import Progress, ProgressReport
from halcyon_api.status.run_status import MAX_HISTORY, HistoryEntry, TrainingRunStatus
from halcyon_operator.model.history import entry_of
from halcyon_operator.model.numbers import readable
from halcyon_operator.model.untrusted import moment, stamp, text
from halcyon_operator.model.views import ProcessGroup


def with_group(status: TrainingRunStatus, group: ProcessGroup, now: datetime, in_place: int = 0) -> TrainingRunStatus:
    """The status with an entry for a new process group, or for one that started again in its pods for the `in_place`th
    time. The oldest entries are dropped.
    """
    known = entry_of(status, group)
    if known and known.in_place >= in_place:
        return status
    entry = HistoryEntry(attempt=group.attempt, restart=group.restart, in_place=in_place, started_at=stamp(now))
    history = [*status.history, entry]
    dropped, kept = history[:-MAX_HISTORY], history[-MAX_HISTORY:]
    return status.but(history=kept, goodput=carry(status.goodput, dropped, kept))


def with_report(status: TrainingRunStatus, group: ProcessGroup, report: ProgressReport) -> TrainingRunStatus:
    """The status with the times of a process group's start, from a report."""
    entry = entry_of(status, group)
    if entry is None or entry.ended_at is not None:
        return status
    update: dict[str, object] = {}
    if (step := resumed_step(report)) is not None and entry.from_step is None:
        update["from_step"] = step
    if (first := moment(report.first_step_at)) is not None and entry.first_step_at is None:
        update |= {"first_step_at": stamp(first), "startup_seconds": readable(report.startup_seconds)}
    return _replace(status, entry, update)


def with_end(
    status: TrainingRunStatus, group: ProcessGroup, cause: EndCause, message: str, at: datetime, to_step: int | None
) -> TrainingRunStatus:
    """The status with the end of a process group, unless the group has an end already."""
    entry = entry_of(status, group)
    if entry is None or entry.ended_at is not None:
        return status
    # Progress counts only for the group that reported it, which has a `from_step`.
    reported = status.progress.step if status.progress is not None and entry.from_step is not None else None
    steps = [step for step in (to_step, reported, entry.from_step) if step is not None]
    return _replace(
        status,
        entry,
        {
            "cause": cause,
            "message": text(message, 1024) or None,
            "ended_at": stamp(at),
            "to_step": max(steps, default=None),
        },
    )


def resumed_step(report: ProgressReport) -> int | None:
    """Steps done when the process resumed the run; None until it reports them."""
    if report.resumed_step is not None:
        return report.resumed_step
    return 0 if report.first_step_at is not None else None


def shown(progress: Progress, before: Progress | None) -> Progress:
    """Progress as it is shown: readable, and with the last losses until new ones are reported."""
    if before is not None:
        kept = ("loss", "evaluation_loss", "bits_per_byte", "evaluated", "tasks")
        progress = progress.but(**{name: getattr(before, name) for name in kept if getattr(progress, name) is None})
    return readable(progress)


def _replace(status: TrainingRunStatus, old: HistoryEntry, update: dict[str, object]) -> TrainingRunStatus:
    if not update:
        return status
    new = old.but(**update)
    return status.but(history=[new if entry is old else entry for entry in status.history])


def measure(status: TrainingRunStatus, goodput: Goodput) -> Goodput:
    """The sums of a run from the seconds of its process groups."""
    total = _Sum.of(goodput.carried)
    for index, entry in enumerate(status.history):
        total.add(entry, status.history[index + 1 :])
    total.count(goodput.current.seconds.milliseconds())
    seconds = total.seconds
    wall = seconds.total
    return goodput.but(
        ratio=readable(seconds.productive_step / wall) if wall > 0 else 0.0,
        wall_seconds=wall,
        productive_seconds=seconds.productive_step,
        lost_steps=total.lost_steps,
        seconds=seconds,
    )


def carry(goodput: Goodput | None, dropped: Sequence[HistoryEntry], kept: Sequence[HistoryEntry]) -> Goodput | None:
    """The goodput with the seconds of the entries that the history drops.

    Args:
        goodput: The goodput so far.
        dropped: Entries that the history drops, oldest first.
        kept: Entries that stay in the history.
    """
    if not dropped or goodput is None:
        return goodput
    total = _Sum.of(goodput.carried)
    for index, entry in enumerate(dropped):
        total.add(entry, [*dropped[index + 1 :], *kept])
    return goodput.but(carried=CarriedGoodput(seconds=total.seconds, lost_steps=total.lost_steps))


@dataclass(eq=False)
class _Sum:
    """Seconds and lost steps of several process groups."""

    milliseconds: dict[str, int]
    lost_steps: int

    @classmethod
    def of(cls, carried: CarriedGoodput) -> _Sum:
        return cls(carried.seconds.milliseconds(), carried.lost_steps)

    @property
    def seconds(self) -> GoodputSeconds:
        return GoodputSeconds.of_milliseconds(self.milliseconds)

    def count(self, milliseconds: dict[str, int]) -> None:
        for cause, more in milliseconds.items():
            self.milliseconds[cause] += more

    def add(self, entry: HistoryEntry, later: Sequence[HistoryEntry]) -> None:
        seconds, lost_steps = divide(entry, later)
        self.count(seconds.milliseconds())
        self.lost_steps += lost_steps
