"""The report of a run as a terminal shows it. Pure: takes values, returns rich renderables."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from halcyon_api.status.goodput import CAUSES, GoodputSeconds, cause_label
from halcyon_cli.report import MEANINGS, ORDER, Report
from halcyon_cli.timeline import COLOURS, span

_BAND_WIDTH = 72


def report_view(report: Report) -> RenderableType:
    """Return a band of the whole run, its seconds by cause, and its process groups."""
    return Group(
        _title(report), Text(), band(report.seconds, _BAND_WIDTH), causes_table(report), process_groups_table(report)
    )


def _title(report: Report) -> Text:
    text = Text(f"{report.run}  ", "bold")
    text.append(f"{report.phase}, {report.ratio:.1%} goodput of {span(report.wall_seconds)}", "default")
    if report.suspended_seconds:
        text.append(f" (suspended for {span(report.suspended_seconds)} more)", "dim")
    return text


def band(seconds: GoodputSeconds, width: int) -> Text:
    """Return the seconds as `width` coloured blocks; a cause with less than half a block has none."""
    total = seconds.total or 1.0
    text = Text()
    for cause in ORDER:
        text.append("█" * round(width * getattr(seconds, cause) / total), COLOURS[cause])
    return text


def causes_table(report: Report) -> Table:
    """Return seconds and shares by cause; the seconds add up to the wall time."""
    table = Table("", "cause", box=SIMPLE_HEAD)
    for title in ("seconds", "share"):
        table.add_column(title, justify="right")
    table.add_column("meaning", style="dim")
    wall = report.wall_seconds or 1.0
    for cause in CAUSES:
        seconds = getattr(report.seconds, cause)
        if seconds > 0:
            table.add_row(
                Text("■", COLOURS[cause]),
                cause_label(cause),
                f"{seconds:.1f}",
                f"{seconds / wall:.1%}",
                MEANINGS[cause],
            )
    table.add_section()
    table.add_row(
        "", "all", f"{report.wall_seconds:.1f}", "100.0%", "every second since the run first started", style="bold"
    )
    return table


def process_groups_table(report: Report) -> Table:
    """Return the process groups, one row each, oldest first."""
    table = Table("process group", "steps", "ended", box=SIMPLE_HEAD)
    for title in ("seconds", "until first step", "productive", "lost"):
        table.add_column(title, justify="right")
    for group in report.groups:
        steps = (
            f"{group.from_step}-{group.to_step}" if group.from_step is not None and group.to_step is not None else "-"
        )
        start = sum(getattr(group.seconds, cause) for cause in ORDER[: ORDER.index("compile") + 1])
        table.add_row(
            group.name,
            steps,
            group.ended or "-",
            f"{group.seconds.total:.1f}",
            f"{start:.1f}",
            f"{group.seconds.productive_step:.1f}",
            f"{group.seconds.lost_work:.1f}",
        )
    return table
