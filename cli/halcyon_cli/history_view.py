"""The history of a run, or of several, as a terminal shows it. Pure: takes values, returns rich renderables."""

from collections.abc import Sequence

from pydantic.alias_generators import to_snake
from rich.console import Group, RenderableType
from rich.text import Text

from halcyon.commands.views.tables import FittedTable
from halcyon.telemetry.events import sentence
from halcyon.telemetry.history.reading import History
from halcyon.telemetry.history.segments import Record
from halcyon_api.checkpoint_documents import Epoch
from halcyon_api.counting import counted, percent
from halcyon_api.local_times import local_time
from halcyon_api.printable import harmless
from halcyon_api.result_documents import task_title
from halcyon_cli.history_report import labels, last_tasks, left_out, report_of, series, spread, state, together
from halcyon_cli.report import Report, number, span
from halcyon_cli.status_view import Facts, report_view, sparkline

_WIDTH = 60
_LAST_EVENTS = 8
_TEXTS = 4
WRITER_FIELDS = ("event", "time", "attempt", "restart")
"""What a row of a history has beside the fields of its event."""


def status_view(history: History, now: float) -> RenderableType:
    """The state of a run: progress, losses, checkpoints, and where its time went.

    Args:
        history: The history.
        now: Seconds since 1970.
    """
    facts = Facts()
    fact = facts.add
    report, last = report_of(history, now), history.groups[-1]
    fact("state", state(history, now))
    if last.message:
        fact("that is", last.message)
    fact("root", history.root)
    if history.origin is not None:
        fact("origin", history.origin.message)
    facts.add_progress(history.done_steps, history.planned_steps, "steps")
    if history.steps and (speed := history.steps[-1].get("tokensPerSecond")):
        eta = history.steps[-1].get("etaSeconds")
        fact("speed", f"{speed:,.0f} tokens/s" + (f", {span(eta)} left" if eta and not last.ended else ""))
    _add_losses(facts, history)
    saved = next((row for row in reversed(history.events) if row["event"] == "checkpoint"), None)
    if saved is not None:
        fact("saved", f"step {saved['step']:,}, {local_time(saved['time'])}, {saved['path']}")
    fact("starts", f"{len(report.groups)}, {counted(report.lost_steps, 'step')} repeated")
    facts.add_goodput(report)
    return Group(Text(history.run, "bold"), facts.grid, *_damages(history))


def history_view(history: History, report: Report) -> RenderableType:
    """The report of a run: its losses, where its time went, its evaluations and its last events."""
    facts = Facts()
    if history.origin is not None:
        facts.add("origin", history.origin.message)
    for words in left_out(history):
        facts.add("left out", harmless(words))
    _add_losses(facts, history)
    parts: list[RenderableType] = [report_view(report), facts.grid]
    if history.stopped_seconds >= 0.1:
        parts.append(Text(f"between the starts: {span(history.stopped_seconds)}, in no sum", "dim"))
    if history.evaluations:
        parts.append(_evaluations(history.evaluations))
    if tasks := last_tasks(history):
        parts.append(_tasks(tasks))
    parts += _texts(history)
    if history.events:
        parts.append(_events(history.events[-_LAST_EVENTS:]))
    return Group(*parts, *_damages(history))


def comparison_view(histories: Sequence[History], now: float) -> RenderableType:
    """Several runs, one line each, and their losses at the same step: the last one that all histories have."""
    losses_at = [{row["step"]: row["loss"] for row in history.steps if "loss" in row} for history in histories]
    common = max(set(losses_at[0]).intersection(*losses_at), default=None)
    at = "a common step" if common is None else str(common)
    compared = ("loss", f"loss at {at}", "held-out loss", "bits per byte")
    curve = "losses"
    table = FittedTable(
        "run",
        "state",
        numbers=("step", *compared, "tokens/s", "goodput", "starts"),
        drops=(curve, "starts", "goodput", "tokens/s", "state", "loss", "bits per byte"),
    )
    table.add_column(curve, no_wrap=True)
    names = labels(histories)
    for label, history, at_step in zip(names, histories, losses_at, strict=True):
        report = report_of(history, now)
        _, losses = series(history.steps, "loss")
        validation = (together(history) or [{}])[-1]
        last = history.steps[-1] if history.steps else {}
        table.add_row(
            Text(label),
            Text(report.phase),
            f"{history.done_steps}/{history.planned_steps}",
            number(last.get("loss")),
            number(at_step.get(common)),
            number(validation.get("loss")),
            number(validation.get("bitsPerByte")),
            f"{speed:,.0f}" if isinstance(speed := last.get("tokensPerSecond"), (int, float)) and speed else "-",
            percent(report.ratio),
            str(len(report.groups)),
            Text(sparkline(losses, 30) if losses else "", "cyan"),
        )
    of = zip(names, histories, strict=True)
    return Group(table, *(Text(f"{label}: ", "red") + text for label, one in of for text in _damages(one)))


def _add_losses(facts: Facts, history: History) -> None:
    for title, rows in (("loss", history.steps), ("held-out loss", together(history))):
        _, values = series(rows, "loss")
        if values:
            facts.add_losses(title, f"{values[0]:z.4f} to {values[-1]:z.4f}", values)


def _evaluations(rows: Sequence[Record]) -> FittedTable:
    numbers = "loss", "bits per byte", "seconds"
    table = FittedTable("evaluation at step", "source", numbers=numbers, drops=("seconds",))
    for row in rows[-_LAST_EVENTS:]:
        table.add_row(*evaluation_cells(row), number(row.get("seconds")))
    return table


def _tasks(rows: Sequence[Record]) -> FittedTable:
    numbers = "step", "accuracy", "standard error", "centred", "bits per byte", "word errors"
    drops = "word errors", "bits per byte", "standard error", "centred", "step"
    table = FittedTable("task", numbers=numbers, drops=drops)
    for row in rows:
        task, *numbers = task_cells(row)
        table.add_row(Text(task), *numbers)
    return table


def _texts(history: History) -> list[RenderableType]:
    """How the text after the prompt changed: the first, the last, and some between them."""
    shown = [
        Text.assemble((f"step {row['step']:,}: ", "dim"), harmless(row["prompt"]), (harmless(row["text"]), "cyan"))
        for row in spread(history.samples, _TEXTS)
    ]
    return [Text("what the model writes", "bold"), *shown] if shown else []


def _events(rows: Sequence[Record]) -> FittedTable:
    table = FittedTable("last events", "start", "", drops=("start",))
    for row in rows:
        time, group, sentence = event_cells(row)
        table.add_row(time, group, Text(sentence))
    return table


def evaluation_cells(row: Record) -> tuple[str, str, str, str]:
    """Step, source, loss and bits per byte of an evaluation."""
    return f"{row['step']:,}", row.get("source", "all"), number(row.get("loss")), number(row.get("bitsPerByte"))


def task_cells(row: Record) -> tuple[str, ...]:
    """Task, step, accuracy, standard error, centred accuracy, bits per byte and word error rate of a result."""
    numbers = (row.get(name) for name in ("accuracy", "standardError", "centred", "bitsPerByte", "wordErrorRate"))
    return task_title(row["task"], row.get("tasks")), f"{row['step']:,}", *map(number, numbers)


def event_cells(row: Record) -> tuple[str, str, str]:
    """Time, start and sentence of an event."""
    return local_time(row["time"]), str(Epoch(attempt=row["attempt"], restart=row["restart"])), event_sentence(row)


def event_sentence(row: Record) -> str:
    """An event as a sentence, as the trainer's live line shows it."""
    fields = {to_snake(name): value for name, value in row.items() if name not in WRITER_FIELDS}
    try:
        return sentence(row["event"], fields)
    except (KeyError, TypeError, ValueError):  # an event of another version
        return row["event"]


def _damages(history: History) -> list[Text]:
    return [Text(f"not read: {damage}", "red") for damage in history.damages]
