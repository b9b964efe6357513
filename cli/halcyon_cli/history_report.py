"""The report of a run from its history: the same as from the status of a run in a cluster, and the numbers of its
steps. Pure.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from halcyon.host.clock import timestamp
from halcyon.telemetry.history.reading import History
from halcyon.telemetry.history.segments import Record
from halcyon_api.counting import counted
from halcyon_api.local_times import local_time
from halcyon_cli.report import ProcessGroup, Report, one_after_another

SILENT_SECONDS = 120.0
"""A run that has written nothing for this time does not train: a trainer writes at least every 20 seconds while steps
end.
"""
_FIRST_COLUMNS = (
    "step",
    "time",
    "loss",
    "validationLoss",
    "bitsPerByte",
    "gradientNorm",
    "learningRate",
    "tokens",
    "tokensPerSecond",
    "seconds",
)


def state(history: History, now: float) -> str:
    """What the run does now, in a few words, as far as its history shows.

    Args:
        history: The history; it has a process group.
        now: Seconds since 1970.
    """
    last = history.groups[-1]
    if last.ended:
        return {"completed": "complete"}.get(last.ended) or end_words(last.ended, last.message)
    silent = now - last.last_time
    return "training" if silent < SILENT_SECONDS else f"no news since {local_time(last.last_time)}"


def end_words(ended: str, message: str) -> str:
    """The cause of the end of a start, in the words of the user's own machine if the message has them."""
    reason = message.partition(";")[0]
    return reason if ended == "preempted" and reason.startswith("stopped by") else ended


def report_of(history: History, now: float) -> Report:
    """The report; the time between process groups is in none of them, because nobody observed it."""
    groups = [
        ProcessGroup(
            f"{one.group.attempt}.{one.group.restart}",
            one.seconds,
            one.group.resumed_step,
            one.last_step,
            one.ended or ("" if one is history.groups[-1] else "killed"),
            end_words(one.ended, one.message),
        )
        for one in history.groups
    ]
    total = history.seconds
    return Report(
        run=history.run,
        phase=state(history, now),
        started_at=timestamp(history.groups[0].group.began),
        groups=one_after_another(groups),
        seconds=total,
        ratio=total.productive_step / total.total if total.total else 0.0,
        lost_steps=sum(one.repeated for one in history.groups),
        restarts=len(groups) - 1,
        suspended_seconds=0.0,
    )


def series(rows: Iterable[Record], name: str) -> tuple[list[int], list[float]]:
    """The steps and values of one number, without values that are not finite."""
    pairs = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    return [step for step, _ in pairs], [float(value) for _, value in pairs]


def together(history: History) -> list[Record]:
    """The evaluations of all sources together, by step."""
    return [row for row in history.evaluations if "source" not in row]


def spread(rows: Sequence[Record], count: int) -> list[Record]:
    """At most `count` rows at equal distances, with the first and the last one."""
    if len(rows) <= count:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (count - 1))] for place in range(count)]


def last_tasks(history: History) -> list[Record]:
    """The newest result of each task, in the order in which tasks were run."""
    return list({row["task"]: row for row in history.events if row["event"] == "task"}.values())


def left_out(history: History) -> list[str]:
    """What the run left out, one sentence each: of its sources, as the newest start reported, and of its steps."""
    events = history.events
    found = list({row["source"]: row["message"] for row in events if row["event"] == "source"}.values())
    if skipped := sum(row["event"] == "skipped" for row in events):
        found.append(f"the updates of {counted(skipped, 'step')} were dropped")
    if batches := sum(row["batches"] for row in events if row["event"] == "rolledBack"):
        found.append(f"{counted(batches, 'batch', 'batches')} left out after a return")
    return found


def table(history: History) -> str:
    """The steps as CSV: one line each, with the evaluation of the step if there was one.

    Lists of numbers are left out.
    """
    validation = {row["step"]: row for row in together(history)}
    rows = [
        {
            **{name: value for name, value in row.items() if isinstance(value, (int, float, str)) and name != "event"},
            "validationLoss": validation.get(row["step"], {}).get("loss"),
            "bitsPerByte": validation.get(row["step"], {}).get("bitsPerByte"),
        }
        for row in history.steps
    ]
    names = dict.fromkeys((*_FIRST_COLUMNS, *(name for row in rows for name in row)))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def document(history: History) -> dict[str, Any]:
    """What a history adds to the JSON of a report."""
    return {
        "root": history.root,
        "step": history.done_steps,
        "steps": history.planned_steps,
        "complete": history.complete,
        "from": None if history.origin is None else history.origin.document(),
        "stoppedSeconds": round(history.stopped_seconds, 3),
        "history": {
            "steps": list(history.steps),
            "evaluations": list(history.evaluations),
            "samples": list(history.samples),
            "events": list(history.events),
            "damages": list(history.damages),
        },
    }


def labels(histories: Sequence[History]) -> list[str]:
    """A label for each run: its name, or its root where names are equal."""
    names = [history.run for history in histories]
    return [
        name if names.count(name) == 1 else history.root.removeprefix("file://")
        for name, history in zip(names, histories, strict=True)
    ]
