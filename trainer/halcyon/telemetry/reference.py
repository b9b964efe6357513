"""The reference page of what a trainer tells: ``python -m halcyon.telemetry.reference > docs/reference/metrics.md``.

Made from the tables that the code itself uses; a test holds the committed page to it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from halcyon.telemetry.events import COMMON, EVENTS
from halcyon.telemetry.health import HealthLimits
from halcyon.telemetry.metrics import METRICS

_HEAD = """\
# What a trainer tells

<!-- Made by `python -m halcyon.telemetry.reference`; do not edit. -->

Every trainer process answers on `spec.telemetry.port` (9400 unless said otherwise), from its very start until it ends:

| path | answer |
|---|---|
| `/metrics` | the Prometheus metrics below |
| `/status` | the progress report as JSON: what the operator reads into `status.progress` |
| `/healthz` | 200 while the process makes progress, else 503; one line says why |
| `POST /save` | takes a request for a checkpoint from who knows the token that the operator gave to the pod: 202 and the step |

## Health

While the run trains, a step must end within {factor:g} times the 99th percentile of the last steps, no less than {floor:g} s and no more
than {ceiling:g} s after the step (or the evaluation) before it. The other stages have limits of their own, from their beginning
(`tokenizing`: or from the last piece of text that was done):

| stage | limit |
|---|---|
{stages}

## Metrics

A metric is absent while there is nothing to say: no loss before the first step, no utilisation where the device's peak is not known.

| metric | type | labels | meaning |
|---|---|---|---|
{metrics}

## Log events

`halcyon train` writes one JSON object a line to standard output, or, on a terminal, a live progress line with the events in words above it
(`--json` writes the lines there too). A loss is written with all its digits: read back as a float32 it is the device's, bit for bit. What
JSON has no number for is written as `"NaN"`, `"Infinity"` or `"-Infinity"`. Where nothing else is said, process 0 alone writes.

Every line has:

| field | meaning |
|---|---|
{common}

{events}"""


def render() -> str:
    """The page, in Markdown."""
    limits = HealthLimits()
    return _HEAD.format(
        factor=limits.factor,
        floor=limits.floor_seconds,
        ceiling=limits.ceiling_seconds,
        stages=_rows((f"`{stage}`", f"{seconds:g} s" if seconds < float("inf") else "none") for stage, seconds in limits.stages.items()),
        metrics=_rows(
            (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help) for metric in METRICS
        ),
        common=_rows((f"`{name}`", meaning) for name, meaning in COMMON.items()),
        events="\n".join(_event(event.name, event.meaning, event.fields, event.every_process) for event in EVENTS),
    )


def _event(name: str, meaning: str, fields: dict[str, str], every_process: bool) -> str:
    said = f"### `{name}`\n\n{meaning}{' Written by every process.' if every_process else ''}\n"
    if not fields:
        return said
    return f"{said}\n| field | meaning |\n|---|---|\n{_rows((f'`{field}`', about) for field, about in fields.items())}\n"


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.stdout.write(render())
