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
from halcyon_cli.markdown import escaped, fenced, html, quoted
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
    head, time, rest = rendered(
        "halcyon_cli",
        "run.md.jinja",
        finalize=escaped,
        history=history,
        report=report,
        left_out=left_out(history),
        causes=CAUSES,
        looks=LOOKS,
        evaluations=map(evaluation_cells, history.evaluations),
        tasks=map(task_cells, last_tasks(history)),
        texts=spread(history.samples, _TEXTS),
        events=list(map(event_cells, history.events[-_EVENTS:])),
        cause_label=cause_label,
        counted=counted,
        fenced=fenced,
        local_time=local_time,
        percent=percent,
        quoted=quoted,
        span=span,
    ).split("\f")
    parts = html(head), curves_in_page([history]), html(time), inline(draw(report)), html(rest)
    return whole_page(history.run, parts)


def whole_page(title: str, parts: Iterable[str]) -> str:
    """The text of an HTML file.

    Args:
        title: The title, which is also the first heading.
        parts: The content in HTML, from top to bottom.
    """
    digest = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return rendered("halcyon_cli", "page.html", title=title, parts=list(parts), script=SCRIPT, digest=digest)
