"""The sections of a report card, as values that Markdown and HTML are written from.

Pure, but for the pictures, which matplotlib draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from halcyon.telemetry.history.reading import History
from halcyon_api.counting import counted
from halcyon_api.local_times import local_time
from halcyon_api.result_documents import CORE_PREFIX, CORE_TASKS, core_title
from halcyon_api.status.goodput import CAUSES, cause_label
from halcyon_cli.chain.original import CORE_OF_GPT2, ROWS, comparable
from halcyon_cli.chain.reading import Chain
from halcyon_cli.chain.stage import Stage, cost_of, seconds_of
from halcyon_cli.chain.verdict import verdict
from halcyon_cli.chain.writing import Block, Card, Curves, Facts, Heading, Paragraph, Sample, Table
from halcyon_cli.history_report import series, state
from halcyon_cli.report import MEANINGS, span

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
    blocks: list[Block] = [Paragraph(verdict(stages, price)), _summary(chain, price, now)]
    for title, make in (
        ("Stages", lambda: _stages(stages, now)),
        ("Data", lambda: _data(stages)),
        ("Hardware and cost", lambda: _cost(stages, price)),
        ("Time by cause", lambda: _time(stages)),
        ("Curves", lambda: _curves(stages)),
        ("Results", lambda: _results(stages)),
        ("Beside the original", lambda: _original(stages)),
        ("Answers", lambda: _answers(stages)),
        ("What is missing", lambda: _missing(chain)),
    ):
        found = list(make())
        blocks += [Heading(title), *found] if found else []
    return Card(f"Report card: {' → '.join(stage.run for stage in stages)}", tuple(blocks))


def _summary(chain: Chain, price: float | None, now: float) -> Facts:
    stages = chain.stages
    seconds = seconds_of(stages)
    last = stages[-1]
    rows = [
        ("model", ", ".join(part for part in (last.model, _amount(last.parameters, "parameter")) if part) or NONE),
        ("stages", counted(len(stages), "stage")),
        ("trained on", _amount(sum(stage.tokens or 0 for stage in stages) or None, "token") or NONE),
        ("time", f"{span(seconds.total)}, {_ratio(seconds.productive_step, seconds.total)} of it productive"),
        ("cost", _total_cost(stages, price)),
        ("written", local_time(now)),
    ]
    rows += (
        (core_title(last.core_tasks) if name == "CORE" else name, f"{value:z.4f} at step {step:,}")
        for name, (step, value) in last.averages.items()
    )
    return Facts(tuple(rows))


def _stages(stages: Sequence[Stage], now: float) -> Iterator[Block]:
    titles = ("stage", "objective", "began from", "#steps", "#tokens", "#time", "state")
    yield Table(titles, tuple(_stage_row(stage, now) for stage in stages))


def _stage_row(stage: Stage, now: float) -> tuple[str, ...]:
    origin = stage.origin
    began = NONE if origin is None else origin.run or origin.root or NONE
    tokens = stage.tokens
    steps = f"{stage.first_step:,} to {stage.last_step:,}" if stage.first_step else f"{stage.last_step:,}"
    return (
        stage.run,
        stage.objective or NONE,
        began,
        steps,
        NONE if tokens is None else f"{tokens:,}",
        span(stage.seconds.total) if stage.history is not None else NONE,
        state(stage.history, now) if stage.history is not None else "no history",
    )


def _data(stages: Sequence[Stage]) -> Iterator[Block]:
    rows = [
        (
            stage.run,
            source.name,
            f"{source.share:.1%}",
            f"{source.tokens:,.0f}",
            NONE if source.epochs is None else f"{source.epochs:.2f}",
            NONE if source.held_out is None else f"{source.held_out:,}",
        )
        for stage in stages
        for source in stage.sources
    ]
    if rows:
        yield Table(("stage", "source", "#share", "#tokens", "#epochs", "#held-out sequences"), tuple(rows))
        yield Paragraph("Shares are those at the first step of a stage; tokens and epochs follow from them.")


def _cost(stages: Sequence[Stage], price: float | None) -> Iterator[Block]:
    rows: list[tuple[str, ...]] = []
    for stage in stages:
        place, hours, cost = stage.place, stage.chip_hours, stage.cost(price)
        shown = price if price is not None else place.get("pricePerChipHour")
        rows.append(
            (
                stage.run,
                _hardware(place),
                str(place.get("chips", NONE)),
                NONE if hours is None else f"{hours:,.3f}",
                NONE if shown is None else f"{shown:g}",
                NONE if cost is None else f"{cost:,.2f}",
            )
        )
    yield Table(("stage", "hardware", "#chips", "#chip hours", "#price", "#cost"), tuple(rows))
    words = ["Cost is chips times hours times the price of a chip hour, over every second of each process group."]
    if not any(row[4] != NONE for row in rows):
        words.append("No price is known: set accelerator.pricePerChipHour in the documents, or give --price.")
    words += (
        f"{stage.run}: {counted(stage.unplaced, 'process group')} did not record its hardware, and is not counted."
        for stage in stages
        if stage.unplaced
    )
    yield Paragraph(" ".join(words))


def _hardware(place: Any) -> str:
    if not place:
        return NONE
    slices = f" x {place['slices']}" if place.get("slices", 1) > 1 else ""
    kind = place.get("deviceKind", "")
    return (
        f"{place.get('accelerator', '')} {place.get('topology', '')}{slices}, {place.get('provisioning', '')} ({kind})"
    )


def _time(stages: Sequence[Stage]) -> Iterator[Block]:
    known = [stage for stage in stages if stage.history is not None]
    if not known:
        return
    every = [*(stage.seconds for stage in known), seconds_of(known)]
    rows = [
        (cause_label(cause), *(f"{getattr(seconds, cause):,.1f}" for seconds in every), MEANINGS[cause])
        for cause in CAUSES
        if getattr(every[-1], cause) > 0
    ]
    rows.append(("all", *(f"{seconds.total:,.1f}" for seconds in every), "seconds"))
    rows.append(("goodput", *(_ratio(seconds.productive_step, seconds.total) for seconds in every), "productive share"))
    yield Table(("cause", *(f"#{stage.run}" for stage in known), "#all", "meaning"), tuple(rows))


def _curves(stages: Sequence[Stage]) -> Iterator[Block]:
    for stage in stages:
        if stage.history is None or not stage.history.steps:
            continue
        yield Paragraph(f"{stage.run}: {_first_and_last(stage.history)}")
        yield Curves(stage.history)


def _first_and_last(history: History) -> str:
    names = [name for name in history.steps[-1] if name not in _OWN_COLUMNS][:_MOST_METRICS]
    parts: list[str] = []
    for name in ("loss", *names):
        _, values = series(history.steps, name)
        if values:
            parts.append(f"{name} {values[0]:z.4g} to {values[-1]:z.4g}")
    return ", ".join(parts)


def _results(stages: Sequence[Stage]) -> Iterator[Block]:
    names = list(dict.fromkeys(name for stage in stages for name in stage.last_results))
    names.sort(key=lambda one: one.startswith(CORE_PREFIX))
    rows = [
        *((name, *(_average(stage, name) for stage in stages)) for name in ("CORE", "ChatCORE")),
        *((name, *(_accuracy(stage, name) for stage in stages)) for name in names),
    ]
    rows = [row for row in rows if any(cell != NONE for cell in row[1:])]
    held_out = [stage.held_out for stage in stages]
    if any(held_out):
        rows.append(("held-out loss", *(_before_and_after(found, 1) for found in held_out)))
        rows.append(("held-out bits per byte", *(_before_and_after(found, 2) for found in held_out)))
    if any(stage.held_out_rewards for stage in stages):
        rows.append(("held-out reward", *(_before_and_after(stage.held_out_rewards, 1) for stage in stages)))
    if not rows:
        return
    yield Table(("result", *(f"#{stage.run}" for stage in stages)), tuple(rows))
    words = [
        "Tasks are those of the newest model of each stage, so a column and the one before it are after and before the "
        "stage."
    ]
    words.append("± is the standard error. CORE and ChatCORE are means of centred accuracies: random answers have 0.")
    words.append("Held-out results are the first and the last of a stage, each on the stage's own held-out text.")
    yield Paragraph(" ".join(words))


def _average(stage: Stage, name: str) -> str:
    if name not in stage.averages:
        return NONE
    partial = name == "CORE" and stage.core_tasks != CORE_TASKS
    return f"{stage.averages[name][1]:z.4f}" + (f" ({stage.core_tasks} of {CORE_TASKS} tasks)" if partial else "")


def _accuracy(stage: Stage, name: str) -> str:
    if name not in stage.last_results:
        return NONE
    _, found = stage.last_results[name]
    if found.accuracy is None:
        return NONE if found.bits_per_byte is None else f"{found.bits_per_byte:z.4f} bits per byte"
    error = "" if found.standard_error is None else f" ± {found.standard_error:z.4f}"
    several = {int(k): value for k, value in found.pass_at.items() if int(k) > 1}
    best = f", pass@{max(several)} {several[max(several)]:z.4f}" if several else ""
    return f"{found.accuracy:z.4f}{error}{best}"


def _before_and_after(found: Sequence[tuple[float | None, ...]], column: int) -> str:
    values = [value for one in found if isinstance(value := one[column], (int, float)) and math.isfinite(value)]
    if not values:
        return NONE
    return f"{values[-1]:z.4f}" if len(values) == 1 else f"{values[0]:z.4f} to {values[-1]:z.4f}"


def _original(stages: Sequence[Stage]) -> Iterator[Block]:
    last = stages[-1]
    tasks = list(ROWS[-1].tasks)
    newest: Callable[[str], float | None] = lambda name: next(  # noqa: E731
        (found[1].accuracy for stage in reversed(stages) if (found := stage.last_results.get(name)) is not None), None
    )
    averages = {name: value for stage in stages for name, (_, value) in stage.averages.items()}
    of_core = next((stage.core_tasks for stage in reversed(stages) if "CORE" in stage.averages), 0)
    held_out = next((stage.held_out[-1] for stage in reversed(stages) if stage.held_out), None)
    mine = (
        f"this chain ({last.run})",
        NONE,
        f"{seconds_of(stages).total / 3600:.2f}",
        next((_average(stage, "CORE") for stage in reversed(stages) if "CORE" in stage.averages), NONE),
        _number(averages.get("ChatCORE")),
        _number(held_out[2] if held_out is not None else None),
        *(_number(newest(name)) for name in tasks),
    )
    rows = [
        (
            row.name,
            row.source,
            f"{row.hours:.2f}",
            _number(row.core),
            _number(row.chat_core),
            _number(row.bits_per_byte),
            *(_number(row.tasks.get(name)) for name in tasks),
        )
        for row in ROWS
    ]
    gpt2 = (
        "GPT-2, 1.5 billion parameters",
        "leaderboard, its goal",
        NONE,
        _number(CORE_OF_GPT2),
        *(NONE for _ in range(2 + len(tasks))),
    )
    titles = ("run", "source", "#hours", "#CORE", "#ChatCORE", "#bits per byte", *(f"#{name}" for name in tasks))
    yield Table(titles, (mine, *rows, gpt2))
    yield Paragraph(f"Rows of the original are from github.com/karpathy/nanochat. {' '.join(comparable(of_core))}")


def _answers(stages: Sequence[Stage]) -> Iterator[Block]:
    for stage in stages:
        for task, (step, samples) in stage.last_samples.items():
            for sample in samples:
                verdict = "" if sample.right is None else ", right" if sample.right else ", wrong"
                yield Sample(f"{stage.run} at step {step:,}, {task}{verdict}", sample.prompt, sample.answer)
        for one in stage.rollouts:
            yield Sample(f"{stage.run}, sampled in step {one.step:,}, reward {one.reward:z.4g}", one.prompt, one.answer)


def _missing(chain: Chain) -> Iterator[Block]:
    if chain.notes:
        yield Facts(tuple((str(number), note) for number, note in enumerate(chain.notes, 1)))


def _total_cost(stages: Sequence[Stage], price: float | None) -> str:
    hours = math.fsum(stage.chip_hours or 0.0 for stage in stages)
    cost = cost_of(stages, price)
    return f"{hours:,.3f} chip hours" + ("" if cost is None else f", {cost:,.2f}")


def _amount(number: int | None, noun: str) -> str:
    return "" if number is None else f"{number:,} {noun}s"


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else NONE


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:z.4f}"
