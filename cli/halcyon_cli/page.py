"""The report of a run as one HTML file that makes no requests: it can be mailed, archived and opened anywhere.

Its policy allows one script, by its hash: the one that shows values below the pointer. So a script in a name or in a
text of a model does not run even if it were not escaped.
"""

import hashlib
from base64 import b64encode
from collections.abc import Iterable

from halcyon.commands.views.templates import rendered
from halcyon.telemetry.history.reading import History
from halcyon_api.counting import counted, percent
from halcyon_api.local_times import local_time
from halcyon_api.status.goodput import CAUSES, LOOKS, cause_label
from halcyon_cli.curves import SCRIPT, curves_in_page, inline
from halcyon_cli.history_report import last_tasks, left_out, report_of, spread
from halcyon_cli.history_view import evaluation_cells, event_cells, task_cells
from halcyon_cli.markdown import fenced, html, quoted, table
from halcyon_cli.report import draw, span

_EVENTS = 500
_TEXTS = 12


def page(history: History, now: float) -> str:
    """The text of the HTML file.

    Args:
        history: The history; it has a process group.
        now: Seconds since 1970.
    """
    report = report_of(history, now)
    facts = [
        ("state", report.phase),
        ("steps", f"{history.done_steps:,} of {history.planned_steps:,}"),
        ("root", history.root),
        *([] if history.origin is None else [("origin", history.origin.message)]),
        *(("left out", sentence) for sentence in left_out(history)),
        ("began", local_time(report.started_at)),
        ("goodput", f"{percent(report.ratio, 1)} of {span(report.wall_seconds)}"),
        ("starts", f"{len(report.groups)}, {counted(report.lost_steps, 'step')} repeated"),
        ("between starts", span(history.stopped_seconds)),
        *(("not read", damage) for damage in history.damages),
    ]
    causes = ((cause_label(cause), f"{getattr(report.seconds, cause):.1f}", LOOKS[cause].meaning) for cause in CAUSES)
    parts = [
        table(causes, "cause", "#seconds", "meaning"),
        "## Evaluations",
        table(map(evaluation_cells, history.evaluations), "#step", "source", "#loss", "#bits per byte"),
    ]
    if tasks := last_tasks(history):
        titles = ("task", "#step", "#accuracy", "#standard error", "#centred", "#bits per byte")
        parts += ["## Tasks", table(map(task_cells, tasks), *titles)]
    if texts := spread(history.samples, _TEXTS):
        parts.append("## What the model writes")
        if len(texts) < len(history.samples):
            parts.append(f"{len(texts)} of {len(history.samples)}.")
        for row in texts:
            parts += [f"**step {row['step']:,}**", quoted(row["prompt"]), fenced(row["text"])]
    parts.append("## Events")
    if (count := len(history.events)) > _EVENTS:
        parts.append(f"The last {_EVENTS} of {count}; all of them are in the JSON.")
    parts.append(table(map(event_cells, history.events[-_EVENTS:]), "time", "start", "event"))
    return whole_page(
        history.run,
        (
            html(table(facts), "## Curves"),
            curves_in_page([history]),
            html("## Time"),
            inline(draw(report)),
            html(*parts),
        ),
    )


def whole_page(title: str, parts: Iterable[str]) -> str:
    """The text of an HTML file.

    Args:
        title: The title, which is also the first heading.
        parts: The content in HTML, from top to bottom.
    """
    digest = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return rendered("halcyon_cli", "page.html", title=title, parts=list(parts), script=SCRIPT, digest=digest)
