"""Where the time of a run went, computed from its status, and its picture: one self-contained SVG file. Pure.

A run is a sequence of process groups. The account of each begins when the previous one ended, so the accounts in order
are the time line of the run. Suspension is in none of them. In the picture, a tooltip shows the name and the duration
of each part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from halcyon_api.accounts import divide
from halcyon_api.counting import counted, percent
from halcyon_api.local_times import local_time
from halcyon_api.printable import markup
from halcyon_api.status.goodput import LOOKS, GoodputSeconds, cause_label
from halcyon_api.status.run_status import HistoryEntry, TrainingRunStatus

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _BAR = 1000, 92, 150, 74, 24, 16
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800)
_LEGEND_COLUMNS = 4
_FONTS = "system-ui, DejaVu Sans, Helvetica, sans-serif"


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
    end_words: str = ""
    """What a person reads in place of `ended`; empty: the same."""
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
        groups.append(
            ProcessGroup(_group_name(entry), seconds, entry.from_step, entry.to_step, entry.cause or "unknown")
        )
    if open_one is not None:
        step = status.progress.step if status.progress is not None and open_one.from_step is not None else None
        groups.append(
            ProcessGroup(_group_name(open_one), goodput.current.seconds, open_one.from_step, step, open_one.cause or "")
        )
    elif goodput.current.seconds.total > 0:
        groups.append(ProcessGroup("next", goodput.current.seconds))
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


def _group_name(entry: HistoryEntry) -> str:
    return f"{entry.attempt}.{entry.restart}"


def draw(report: Report) -> str:
    """Return the text of the SVG file."""
    rows = len(report.groups) + 1
    legend_rows = -(-len(LOOKS) // _LEGEND_COLUMNS)
    axis = _TOP + rows * _ROW
    height = axis + 34 + 20 * legend_rows
    wall = max(report.wall_seconds, 1e-3)
    scale = (_WIDTH - _LEFT - _RIGHT) / wall
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="{_FONTS}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(16, 28, report.run, size=18, weight="bold"),
        _text(
            16,
            50,
            f"{percent(report.ratio, 1)} goodput of {span(report.wall_seconds)} since {local_time(report.started_at)}, "
            f"{report.restarts} restarts, {counted(report.lost_steps, 'step')} repeated",
            fill="#555555",
        ),
        *_grid(wall, scale, axis),
        *_row(ProcessGroup("all", report.seconds, ended=f"{percent(report.ratio, 1)}"), 0, scale),
    ]
    for number, group in enumerate(report.groups, start=1):
        parts += _row(group, number, scale)
    parts += _legend(axis + 34)
    return "\n".join([*parts, "</svg>", ""])


def span(seconds: float) -> str:
    """Format a duration with the units people use, such as ``2 min 30 s``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _row(group: ProcessGroup, number: int, scale: float) -> Iterator[str]:
    top = _TOP + number * _ROW
    x = _LEFT + group.begins_seconds * scale
    yield _text(_LEFT - 8, top + 12, group.name.removesuffix(".0"), anchor="end")
    for cause, look in LOOKS.items():
        seconds = getattr(group.seconds, cause)
        if seconds <= 0:
            continue
        width = seconds * scale
        about = markup(f"{cause_label(cause)}: {look.meaning}, {span(seconds)}")
        bar = f'x="{x:.2f}" y="{top}" width="{max(width, 0.2):.2f}" height="{_BAR}" fill="{look.colour}"'
        yield f"<rect {bar}><title>{about}</title></rect>"
        x += width
    steps = f"{group.from_step}-{group.to_step}  " if group.from_step is not None and group.to_step is not None else ""
    yield _text(_WIDTH - _RIGHT + 8, top + 12, f"{steps}{group.end_words or group.ended}", fill="#555555")


def _grid(wall: float, scale: float, axis: float) -> Iterator[str]:
    tick = next((tick for tick in _TICKS if wall / tick <= 8), _TICKS[-1])
    at = 0.0
    while at <= wall:
        x = _LEFT + at * scale
        yield f'<line x1="{x:.2f}" y1="{_TOP - 6}" x2="{x:.2f}" y2="{axis}" stroke="#e0e0e0"/>'
        yield _text(x, axis + 14, span(at) if at else "0", anchor="middle", fill="#777777", size=11)
        at += tick


def _legend(top: float) -> Iterator[str]:
    width = (_WIDTH - 32) / _LEGEND_COLUMNS
    for number, look in enumerate(LOOKS.values()):
        x, y = 16 + width * (number % _LEGEND_COLUMNS), top + 20 * (number // _LEGEND_COLUMNS)
        yield f'<rect x="{x:.0f}" y="{y:.0f}" width="12" height="12" fill="{look.colour}"/>'
        yield _text(x + 18, y + 10, look.meaning)


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    weight: str = "normal",
    anchor: str = "start",
    fill: str = "#222222",
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" font-weight="{weight}" fill="{fill}">{markup(words)}</text>'
