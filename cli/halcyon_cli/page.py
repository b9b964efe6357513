"""The report of a run as one HTML file that makes no requests: it can be mailed, archived and opened anywhere.

Its policy allows one script, by its hash: the one that shows values below the pointer. So a script in a name or in a
text of a model does not run even if it were not escaped.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

from halcyon.telemetry.history.reading import History
from halcyon_api.counting import counted
from halcyon_api.local_times import local_time
from halcyon_api.status.goodput import CAUSES, cause_label
from halcyon_cli.curves import SCRIPT, curves_in_page, inline
from halcyon_cli.history_report import last_tasks, report_of, spread
from halcyon_cli.history_view import evaluation_cells, event_cells, task_cells
from halcyon_cli.report import MEANINGS, draw, span

_EVENTS = 500
_TEXTS = 12
STYLE = """
body { font-family: system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem }
td, th { padding: 0.2rem 0.9rem 0.2rem 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid #bbb; font-weight: 600 } td.n, th.n { text-align: right } svg { width: 100%; height: auto }
.dim { color: #666 } figure { margin: 0; position: relative } figcaption { font-size: 0.9rem }
.pointed {
  position: absolute; pointer-events: none; background: #fff; border: 1px solid #bbb; padding: 0.3rem 0.5rem;
  font-size: 0.85rem; white-space: nowrap
}
td.text { white-space: pre-wrap; overflow-wrap: anywhere }
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
        *([] if history.origin is None else [("origin", history.origin.sentence)]),
        ("began", local_time(report.started_at)),
        ("goodput", f"{report.ratio:.1%} of {span(report.wall_seconds)}"),
        ("starts", f"{len(report.groups)}, {counted(report.lost_steps, 'step')} repeated"),
        ("between starts", span(history.stopped_seconds)),
    ]
    facts += [("not read", damage) for damage in history.damages]
    return whole_page(
        history.run,
        [
            table((), facts),
            "<h2>Curves</h2>",
            curves_in_page([history]),
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
            *_texts(history),
            f"<h2>Events</h2>{_more(len(history.events))}",
            table(
                ("time", "start", "event"),
                map(event_cells, history.events[-_EVENTS:]),
            ),
        ],
    )


def whole_page(title: str, parts: Iterable[str], style: str = "") -> str:
    """The text of an HTML file.

    Args:
        title: The title, which is also the first heading.
        parts: The content in HTML, from top to bottom.
        style: More rules of style.
    """
    digest = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # The pictures have styles of their own, in elements and attributes.
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; base-uri 'none'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n<h1>{escape(title)}</h1>\n{body}\n'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _tasks(history: History) -> list[str]:
    """The newest result of each task; nothing for a run without tasks."""
    titles = ("task", "#step", "#accuracy", "#standard error", "#centred", "#bits per byte")
    rows = list(map(task_cells, last_tasks(history)))
    return ["<h2>Tasks</h2>", table(titles, rows)] if rows else []


def _texts(history: History) -> list[str]:
    """How the text that the model writes changed; nothing for a run without ``telemetry.sample``."""
    rows = spread(history.samples, _TEXTS)
    if not rows:
        return []
    body = "".join(
        f'<tr><td class="n">{row["step"]:,}</td><td class="text"><span class="dim">{escape(row["prompt"])}</span>'
        f"{escape(row['text'])}</td></tr>"
        for row in rows
    )
    more = f'<p class="dim">{len(rows)} of {len(history.samples)}.</p>' if len(rows) < len(history.samples) else ""
    head = '<tr><th class="n">step</th><th>text after the prompt</th></tr>'
    return ["<h2>What the model writes</h2>", more, f"<table>{head}{body}</table>"]


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


def _more(count: int) -> str:
    return f'<p class="dim">The last {_EVENTS} of {count}; all of them are in the JSON.</p>' if count > _EVENTS else ""
