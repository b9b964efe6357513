"""Sums of the seconds of a run's process groups: those in the history, and those that the history has dropped. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from halcyon_api.accounts import divide
from halcyon_api.status.goodput import CarriedGoodput, Goodput, GoodputSeconds
from halcyon_api.status.run_status import HistoryEntry, TrainingRunStatus


def measure(status: TrainingRunStatus, goodput: Goodput) -> Goodput:
    """The sums of a run from the seconds of its process groups."""
    total = _Sum.of(goodput.carried)
    for index, entry in enumerate(status.history):
        total.add(entry, status.history[index + 1 :])
    total.count(goodput.current.seconds.milliseconds())
    seconds = total.seconds
    wall = seconds.total
    return goodput.model_copy(
        update={
            "ratio": round(seconds.productive_step / wall, 4) if wall > 0 else 0.0,
            "wall_seconds": wall,
            "productive_seconds": seconds.productive_step,
            "lost_steps": total.lost_steps,
            "seconds": seconds,
        }
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
    return goodput.model_copy(update={"carried": CarriedGoodput(seconds=total.seconds, lost_steps=total.lost_steps)})


class _Sum:
    """Seconds and lost steps of several process groups."""

    def __init__(self, milliseconds: dict[str, int], lost_steps: int) -> None:
        self._milliseconds, self.lost_steps = milliseconds, lost_steps

    @classmethod
    def of(cls, carried: CarriedGoodput) -> _Sum:
        return cls(carried.seconds.milliseconds(), carried.lost_steps)

    @property
    def seconds(self) -> GoodputSeconds:
        return GoodputSeconds.of_milliseconds(self._milliseconds)

    def count(self, milliseconds: dict[str, int]) -> None:
        for cause, more in milliseconds.items():
            self._milliseconds[cause] += more

    def add(self, entry: HistoryEntry, later: Sequence[HistoryEntry]) -> None:
        seconds, lost_steps = divide(entry, later)
        self.count(seconds.milliseconds())
        self.lost_steps += lost_steps
