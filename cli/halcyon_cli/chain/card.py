"""The report card of a chain, as Markdown: what its template shows. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halcyon.commands.views.templates import rendered
from halcyon.telemetry.history.reading import History
from halcyon_api.counting import counted, percent
from halcyon_api.local_times import local_time
from halcyon_api.result_documents import CORE_PREFIX, CORE_TASKS, AnswerSample, core_title
from halcyon_api.status.goodput import CAUSES, LOOKS, GoodputSeconds, cause_label
from halcyon_cli.chain.reading import Chain
from halcyon_cli.chain.stage import Stage, at_least, chip_hours_words, cost_of, seconds_of, tokens_of
from halcyon_cli.chain.writing import Card
from halcyon_cli.history_report import left_out, series, state
from halcyon_cli.markdown import escaped, fenced, line, quoted
from halcyon_cli.report import span

NONE = "-"
_OWN_COLUMNS = frozenset(
    {"step", "time", "loss", "gradientNorm", "learningRate", "tokens", "tokensPerSecond", "etaSeconds", "seconds"}
)
_MOST_METRICS = 12


def card(chain: Chain, price: float | None, now: float) -> Card:
    """The report card of a chain.

    Args:
        chain: The chain.
        price: Price of a chip for an hour. None: the one that each document gave.
        now: Seconds since 1970.
    """
    stages = chain.stages
    known = [stage for stage in stages if stage.history.groups]
    seconds = [*(stage.history.seconds for stage in known), seconds_of(stages)]
    first, *others = rendered(
        "halcyon_cli",
        "card.md.jinja",
        finalize=escaped,
        stages=stages,
        last=stages[-1],
        known=known,
        now=now,
        price=price,
        priced=price is not None or any(stage.place.get("pricePerChipHour") is not None for stage in stages),
        tokens=tokens_of(stages),
        cost=_total_cost(stages, price),
        sources=any(stage.sources for stage in stages),
        seconds=seconds,
        causes=[cause for cause in CAUSES if getattr(seconds[-1], cause) > 0],
        looks=LOOKS,
        results=list(_results(stages)),
        answers=list(_answers(stages)),
        notes=chain.notes,
        cause_label=cause_label,
        cell=_cell,
        core_title=core_title,
        counted=counted,
        fenced=fenced,
        first_and_last=_first_and_last,
        left_out=left_out,
        line=line,
        local_time=local_time,
        percent=percent,
        quoted=quoted,
        ratio=_ratio,
        span=span,
        state=state,
    ).split("\f")
    histories = (stage.history for stage in stages if stage.history.steps)
    parts = (part for pair in zip(histories, others, strict=True) for part in pair)
    return Card(f"Report card: {' → '.join(stage.run for stage in stages)}", (first, *parts))


def _first_and_last(history: History) -> str:
    names = [name for name in history.steps[-1] if name not in _OWN_COLUMNS][:_MOST_METRICS]
    parts: list[str] = []
    for name in ("loss", *names):
        _, values = series(history.steps, name)
        if values:
            parts.append(f"{name} {values[0]:z.4g} to {values[-1]:z.4g}")
    return ", ".join(parts)


def _results(stages: Sequence[Stage]) -> Iterator[tuple[str, ...]]:
    """The results, and what each stage has of them."""
    tasks = list(dict.fromkeys(name for stage in stages for name in stage.last_results))
    tasks.sort(key=lambda one: one.startswith(CORE_PREFIX))
    losses = [stage.validation for stage in stages]
    rewards = [stage.validation_rewards for stage in stages]
    rows = (
        *((name, *(_average(stage, name) for stage in stages)) for name in ("CORE", "ChatCORE")),
        *((name, *(_accuracy(stage, name) for stage in stages)) for name in tasks),
        ("held-out loss", *(_before_and_after(found, "loss") for found in losses)),
        ("held-out bits per byte", *(_before_and_after(found, "bitsPerByte") for found in losses)),
        ("held-out reward", *(_before_and_after(found, "reward") for found in rewards)),
    )
    yield from (row for row in rows if {*row[1:]} != {NONE})


def _average(stage: Stage, name: str) -> str:
    if name not in stage.averages:
        return NONE
    partial = name == "CORE" and stage.core_tasks != CORE_TASKS
    return f"{stage.averages[name]['value']:z.4f}" + (f" ({stage.core_tasks} of {CORE_TASKS} tasks)" if partial else "")


def _accuracy(stage: Stage, name: str) -> str:
    if name not in stage.last_results:
        return NONE
    _, found = stage.last_results[name]
    if found.accuracy is None:
        return NONE if found.bits_per_byte is None else f"{found.bits_per_byte:z.4f} bits per byte"
    error = "" if found.standard_error is None else f" ± {found.standard_error:z.4f}"
    most, value = max(((int(k), value) for k, value in found.pass_at.items()), default=(1, 0.0))
    best = f", pass@{most} {value:z.4f}" if most > 1 else ""
    return f"{found.accuracy:z.4f}{error}{best}"


def _before_and_after(found: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [value for one in found if isinstance(value := one[name], (int, float)) and math.isfinite(value)]
    if not values:
        return NONE
    return f"{values[-1]:z.4f}" if len(values) == 1 else f"{values[0]:z.4f} to {values[-1]:z.4f}"


def _answers(stages: Sequence[Stage]) -> Iterator[tuple[str, AnswerSample]]:
    """Answers with their titles."""
    for stage in stages:
        for task, (step, samples) in stage.last_samples.items():
            for sample in samples:
                verdict = "" if sample.right is None else ", right" if sample.right else ", wrong"
                yield f"{stage.run} at step {step:,}, {task}{verdict}", sample


def _total_cost(stages: Sequence[Stage], price: float | None) -> str:
    cost = cost_of(stages, price)
    least = at_least(all(stage.is_counted(price) for stage in stages))
    return chip_hours_words(stages) + ("" if cost is None else f", {least}{cost:,.2f}")


def _ratio(seconds: GoodputSeconds) -> str:
    return percent(seconds.productive_step / seconds.total, 1) if seconds.total else NONE


def _cell(value: float | None, form: str = "z.4f") -> str:
    return NONE if value is None else format(value, form)
