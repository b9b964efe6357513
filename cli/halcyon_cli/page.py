"""The report of a run as one HTML file without scripts and without requests: it can be mailed, archived and opened
anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from halcyon.telemetry.history.reading import History
from halcyon_api.counting import counted
from halcyon_api.local_times import local_time
from halcyon_api.status.goodput import CAUSES, cause_label
from halcyon_cli.curves import draw_curves
from halcyon_cli.history_report import last_tasks, report_of
from halcyon_cli.history_view import evaluation_cells, event_cells, task_cells
from halcyon_cli.report import MEANINGS, draw, span

_EVENTS = 500
STYLE = """
body { font-family: system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem }
td, th { padding: 0.2rem 0.9rem 0.2rem 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid #bbb; font-weight: 600 } td.n, th.n { text-align: right } svg { width: 100%; height: auto }
.dim { color: #666 }
"""


def page(history: History, now: float) -> str:
    """The text of the HTML file.

    Args:
        history: The history; it has a process group.
        now: Seconds since 1970.

    Raises:
        Rejected: matplotlib is not installed.
    """
    report = report_of(history, now)
    facts = [
        ("state", report.phase),
        ("steps", f"{history.done_steps:,} of {history.planned_steps:,}"),
        ("root", history.root),
        ("began", local_time(report.started_at)),
        ("goodput", f"{report.ratio:.1%} of {span(report.wall_seconds)}"),
        ("starts", f"{len(report.groups)}, {counted(report.lost_steps, 'step')} repeated"),
        ("between starts", span(history.stopped_seconds)),
    ]
    facts += [("not read", damage) for damage in history.damages]
    title = escape(history.run)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta '
            f'charset="utf-8"><title>{title}</title><style>{STYLE}</style></head><body>',
            f"<h1>{title}</h1>",
            table((), facts),
            "<h2>Curves</h2>",
            inline(draw_curves([history])),
            "<h2>Time</h2>",
            inline(draw(report)),
            table(
                ("cause", "#seconds", "meaning"),
                [(cause_label(cause), f"{getattr(report.seconds, cause):.1f}", MEANINGS[cause]) for cause in CAUSES],
            ),
            "<h2>Evaluations</h2>",
            table(
                ("#step", "source", "#loss", "#bits per byte"),
                map(evaluation_cells, history.evaluations),
            ),
            *_tasks(history),
            f"<h2>Events</h2>{_more(len(history.events))}",
            table(
                ("time", "start", "event"),
                map(event_cells, history.events[-_EVENTS:]),
            ),
            "</body></html>\n",
        ]
    )


def _tasks(history: History) -> list[str]:
    """The newest result of each task; nothing for a run without tasks."""
    titles = ("task", "#step", "#accuracy", "#standard error", "#centred", "#bits per byte")
    rows = list(map(task_cells, last_tasks(history)))
    return ["<h2>Tasks</h2>", table(titles, rows)] if rows else []


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; a column whose title begins with # is aligned to the right."""
    kinds = [' class="n"' if title.startswith("#") else "" for title in titles]
    head = "".join(
        f"<th{kind}>{escape(title.removeprefix('#'))}</th>" for title, kind in zip(titles, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{kinds[number] if kinds else ''}>{escape(str(cell))}</td>" for number, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def inline(svg: str) -> str:
    """A picture as part of the page: without the header of a file."""
    return re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL)


def _more(count: int) -> str:
    return f'<p class="dim">The last {_EVENTS} of {count}; all of them are in the JSON.</p>' if count > _EVENTS else ""
