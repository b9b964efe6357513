"""Where the time of a run went, computed from its status, and its picture: one self-contained SVG file. Pure.

A run is a sequence of process groups. The account of each begins when the previous one ended, so the accounts in order
are the time line of the run. Suspension is in none of them. In the picture, a tooltip shows the name and the duration
of each part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from halcyon_api.accounts import divide
from halcyon_api.counting import amount, counted, percent
from halcyon_api.local_times import local_time
from halcyon_api.status.goodput import LOOKS, GoodputSeconds, cause_label
from halcyon_api.status.run_status import TrainingRunStatus

_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800)


@dataclass(frozen=True)
class ProcessGroup:
    """One process group on the time line, or the sum of those that are no longer in the history."""

    name: str
    """``attempt.restart``, after a restart in place with ``+`` and its number; ``earlier`` for those no longer in the
    history; ``next`` for time before a new one starts.
    """
    seconds: GoodputSeconds
    from_step: int | None = None
    to_step: int | None = None
    ended: str = ""
    """The cause of its end; empty while it runs."""
    end_words: str = ""
    """What a person reads in place of `ended`; empty: the same."""
    begins_seconds: float = 0.0
    """Seconds since the start of the run, without suspension."""

    @property
    def title(self) -> str:
        """What a person reads in place of its name."""
        return self.name.removesuffix(".0")

    @property
    def steps(self) -> str:
        """Its steps, such as ``0-40``; empty: not known."""
        return "" if self.from_step is None or self.to_step is None else f"{self.from_step}-{self.to_step}"


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
    current = goodput.current.seconds
    for index, entry in enumerate(status.history):
        name = f"{entry.attempt}.{entry.restart}" + (f"+{entry.in_place}" if entry.in_place else "")
        if entry.seconds is None:
            step = status.progress.step if status.progress and entry.from_step is not None else None
            groups.append(ProcessGroup(name, current, entry.from_step, step, entry.cause or ""))
            break
        seconds, _ = divide(entry, status.history[index + 1 :])
        groups.append(ProcessGroup(name, seconds, entry.from_step, entry.to_step, entry.cause or "unknown"))
    else:
        if current.total > 0:
            groups.append(ProcessGroup("next", current))
    return Report(
        run=run,
        phase=status.phase,
        started_at=status.started_at,
        groups=one_after_another(groups),
        seconds=goodput.seconds,
        ratio=goodput.ratio,
        lost_steps=goodput.lost_steps,
        restarts=status.restarts.total,
        suspended_seconds=goodput.suspended_seconds,
    )


def one_after_another(groups: Sequence[ProcessGroup]) -> tuple[ProcessGroup, ...]:
    """The process groups, each beginning when the one before it ended."""
    begins = accumulate((group.seconds.total for group in groups), initial=0.0)
    return tuple(replace(group, begins_seconds=begin) for group, begin in zip(groups, begins, strict=False))


def draw(report: Report) -> str:
    """Return the text of the SVG file."""
    from halcyon.commands.views.templates import rendered

    wall, ratio = max(report.wall_seconds, 1e-3), percent(report.ratio, 1)
    tick = next((tick for tick in _TICKS if wall / tick <= 8), _TICKS[-1])
    title = (
        f"{ratio} goodput of {span(report.wall_seconds)} since {local_time(report.started_at)}, "
        f"{report.restarts} restarts, {counted(report.lost_steps, 'step')} repeated"
    )
    rows = (ProcessGroup("all", report.seconds, ended=ratio), *report.groups)
    ticks = [tick * number for number in range(int(wall / tick) + 1)]
    return rendered(
        "halcyon_cli", "timeline.svg",
        report=report, title=title, rows=rows, ticks=ticks, wall=wall, looks=LOOKS, span=span, label=cause_label,
    )  # fmt: skip


def number(value: object, decimals: int = 4) -> str:
    """A number for people; a dash if there is none. One that JSON cannot express, such as NaN, is a text there."""
    return amount(value, decimals) if isinstance(value, (int, float)) else "-" if value is None else str(value)


def span(seconds: float) -> str:
    """Format a duration with the units people use, such as ``2 min 30 s``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
