"""The reference page of a trainer's telemetry: ``python -m halcyon.telemetry.reference > docs/reference/metrics.md``.

It is generated from the tables that the code uses. A test compares the committed page with it.
"""

import sys
from collections.abc import Iterable

from halcyon.telemetry.events import EVENTS
from halcyon.telemetry.health import CEILING_SECONDS, FACTOR, FLOOR_SECONDS
from halcyon.telemetry.metrics import METRICS
from halcyon.telemetry.stages import STAGES

_HEAD = """\
# Telemetry of a trainer

<!-- Made by `python -m halcyon.telemetry.reference`; do not edit. -->

Every trainer process answers on `spec.telemetry.port` (9400 by default), from its start to its end. In a pod it listens on all
addresses. Elsewhere it listens on this machine's own address, 127.0.0.1, and refuses requests under another name than `localhost`.

| path | answer |
|---|---|
| `/metrics` | the Prometheus metrics below |
| `/status` | the progress report as JSON; the operator fills `status.progress` from it |
| `/healthz` | 200 while the process makes progress, else 503; one line gives the reason |
| `POST /save` | takes a request for a checkpoint, if it has the token that the operator gave to the pod: 202 and the step |

## Health

While the run trains, the time since the last step ended (or the evaluation, save or wait for text after it) has a limit: {factor:g} times
the 99th percentile of the last steps of the same size, at least `spec.recovery.stepTimeoutSeconds` ({floor:g} s by default) and at most
{ceiling:g} s. The first steps of a size may wait for the compilation of their program, so they have the limit of `compiling`. The other
stages have the limits below, from their beginning; `tokenizing` from the last part of the text that this process has tokenized, and
`evaluating` in a run of task `evaluate` from the last batch:

| stage | limit |
|---|---|
{stages}

## Metrics

A metric is absent while it has no value: the loss before the first step, the utilisation if the device's peak is not known.

| metric | type | labels | meaning |
|---|---|---|---|
{metrics}

## Log events

`halcyon train` writes one JSON object a line to standard output, or, on a terminal, a live progress line with the events in words above it
(`--json` writes the lines there too). A loss has all its digits: read back as a float32, it has the same bits as on the device. Numbers
that JSON cannot express are written as `"NaN"`, `"Infinity"` or `"-Infinity"`. Process 0 writes an event, unless the event says otherwise.

Every line has:

| field | meaning |
|---|---|
| `event` | Name of the event. |
| `time` | When it was written: RFC 3339 in UTC with milliseconds. |
| `run` | Name of the run. |
| `attempt` | Attempt, minted by the operator. |
| `restart` | JobSet restart inside the attempt. |
| `inPlace` | Starts of the processes in these pods before this one, if there were any. |
| `process` | Index of the process. |

{events}"""


def render() -> str:
    """The page, in Markdown."""
    return _HEAD.format(
        factor=FACTOR,
        floor=FLOOR_SECONDS,
        ceiling=CEILING_SECONDS,
        stages=_rows(
            (f"`{stage}`", f"{row.limit_seconds:g} s" if row.limit_seconds < float("inf") else "none")
            for stage, row in STAGES.items()
            if stage != "training"
        ),
        metrics=_rows(
            (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
            for metric in METRICS
        ),
        events="\n".join(_event(event.name, event.meaning, event.fields, event.every_process) for event in EVENTS),
    )


def _event(name: str, meaning: str, fields: dict[str, str], every_process: bool) -> str:
    section = f"### `{name}`\n\n{meaning}{' Written by every process.' if every_process else ''}\n"
    if not fields:
        return section
    return (
        f"{section}\n| field | meaning "
        f"|\n|---|---|\n{_rows((f'`{field}`', about) for field, about in fields.items())}\n"
    )


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.stdout.write(render())
