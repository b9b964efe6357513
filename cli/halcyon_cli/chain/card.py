"""The sections of a report card, as Markdown. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from halcyon.telemetry.history.reading import History
from halcyon_api.counting import counted, percent
from halcyon_api.local_times import local_time
from halcyon_api.result_documents import CORE_PREFIX, CORE_TASKS, AnswerSample, core_title
from halcyon_api.status.goodput import CAUSES, LOOKS, GoodputSeconds, cause_label
from halcyon_cli.chain.original import GPT2, ROWS, comparable
from halcyon_cli.chain.reading import Chain
from halcyon_cli.chain.stage import Rollout, Stage, at_least, chip_hours_words, cost_of, seconds_of, tokens_of
from halcyon_cli.chain.verdict import verdict
from halcyon_cli.chain.writing import Card
from halcyon_cli.history_report import left_out, series, state
from halcyon_cli.markdown import fenced, line, quoted, table, text
from halcyon_cli.report import number, span

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
    parts: list[str | History] = [line(verdict(stages, price)), _summary(stages, price, now)]
    for title, section in {
        "Stages": _stages(stages, now),
        "Data": _data(stages),
        "Hardware and cost": _cost(stages, price),
        "Time by cause": _time(stages),
        "Curves": _curves(stages),
        "Results": _results(stages),
        "Beside the original": _original(stages),
        "Answers": _answers(stages),
        "What is missing": _missing(chain),
    }.items():
        if found := list(section):
            parts += [f"## {title}", *found]
    return Card(f"Report card: {' → '.join(stage.run for stage in stages)}", tuple(parts))


def _summary(stages: Sequence[Stage], price: float | None, now: float) -> str:
    seconds = seconds_of(stages)
    last = stages[-1]
    rows = [
        ("model", last.model or NONE),
        ("parameters", _cell(last.parameters, ",")),
        ("stages", counted(len(stages), "stage")),
        ("trained on", tokens_of(stages) or NONE),
        ("time", f"{span(seconds.total)}, {_ratio(seconds)} of it productive"),
        ("cost", _total_cost(stages, price)),
        ("written", local_time(now)),
    ]
    for name, found in last.averages.items():
        title = core_title(last.core_tasks) if name == "CORE" else name
        rows.append((title, f"{found['value']:z.4f} at step {found['step']:,}"))
    return table(rows)


def _stages(stages: Sequence[Stage], now: float) -> Iterator[str]:
    titles = ("stage", "objective", "began from", "#steps", "#tokens", "#time", "state")
    yield table((_stage_row(stage, now) for stage in stages), *titles)


def _stage_row(stage: Stage, now: float) -> tuple[str, ...]:
    origin = stage.origin
    began = NONE if origin is None else origin.run or origin.root or NONE
    known = bool(stage.history.groups)
    steps = f"{stage.first_step:,} to {stage.last_step:,}" if stage.first_step else f"{stage.last_step:,}"
    return (
        stage.run,
        stage.objective or NONE,
        began,
        steps,
        _cell(stage.tokens, ","),
        span(stage.history.seconds.total) if known else NONE,
        state(stage.history, now) if known else "no history",
    )


def _data(stages: Sequence[Stage]) -> Iterator[str]:
    rows = [
        (
            stage.run,
            source.name,
            NONE if source.share is None else percent(source.share, 1),
            _cell(source.tokens, ",.0f"),
            _cell(source.epochs, ".2f"),
            _cell(source.validation_sequences, ","),
        )
        for stage in stages
        for source in stage.sources
    ]
    if rows:
        yield table(rows, "stage", "source", "#share", "#tokens", "#epochs", "#held-out sequences")
        for stage in stages:
            yield from (line(f"{stage.run}: {sentence}") for sentence in left_out(stage.history))
        yield line("Shares are those at the first step of a stage; tokens and epochs follow from them.")


def _cost(stages: Sequence[Stage], price: float | None) -> Iterator[str]:
    rows: list[tuple[object, ...]] = []
    for stage in stages:
        place = stage.place
        rows.append(
            (
                stage.run,
                _hardware(place),
                place.get("chips", NONE),
                _cell(stage.chip_hours, ",.3f"),
                _cell(price if price is not None else place.get("pricePerChipHour"), "g"),
                _cell(stage.cost(price), ",.2f"),
            )
        )
    yield table(rows, "stage", "hardware", "#chips", "#chip hours", "#price", "#cost")
    words = ["Cost is chips times hours times the price of a chip hour, over every second of each process group."]
    if not any(row[4] != NONE for row in rows):
        words.append("No price is known: set accelerator.pricePerChipHour in the documents, or give --price.")
    words += (
        f"{stage.run}: {counted(stage.unplaced, 'process group')} did not record its hardware, and is not counted."
        for stage in stages
        if stage.unplaced
    )
    yield line(" ".join(words))


def _hardware(place: Any) -> str:
    if not place:
        return NONE
    slices = f" x {place['slices']}" if place.get("slices", 1) > 1 else ""
    kind = place.get("deviceKind", "")
    return (
        f"{place.get('accelerator', '')} {place.get('topology', '')}{slices}, {place.get('provisioning', '')} ({kind})"
    )


def _time(stages: Sequence[Stage]) -> Iterator[str]:
    known = [stage for stage in stages if stage.history.groups]
    if not known:
        return
    every = [*(stage.history.seconds for stage in known), seconds_of(known)]
    rows = [
        (cause_label(cause), *(f"{getattr(seconds, cause):,.1f}" for seconds in every), LOOKS[cause].meaning)
        for cause in CAUSES
        if getattr(every[-1], cause) > 0
    ]
    rows.append(("all", *(f"{seconds.total:,.1f}" for seconds in every), "seconds"))
    rows.append(("goodput", *map(_ratio, every), "productive share"))
    yield table(rows, "cause", *(f"#{stage.run}" for stage in known), "#all", "meaning")


def _curves(stages: Sequence[Stage]) -> Iterator[str | History]:
    for stage in stages:
        if stage.history.steps:
            yield line(f"{stage.run}: {_first_and_last(stage.history)}")
            yield stage.history


def _first_and_last(history: History) -> str:
    names = [name for name in history.steps[-1] if name not in _OWN_COLUMNS][:_MOST_METRICS]
    parts: list[str] = []
    for name in ("loss", *names):
        _, values = series(history.steps, name)
        if values:
            parts.append(f"{name} {values[0]:z.4g} to {values[-1]:z.4g}")
    return ", ".join(parts)


def _results(stages: Sequence[Stage]) -> Iterator[str]:
    names = list(dict.fromkeys(name for stage in stages for name in stage.last_results))
    names.sort(key=lambda one: one.startswith(CORE_PREFIX))
    rows = [
        *((name, *(_average(stage, name) for stage in stages)) for name in ("CORE", "ChatCORE")),
        *((name, *(_accuracy(stage, name) for stage in stages)) for name in names),
    ]
    rows = [row for row in rows if any(cell != NONE for cell in row[1:])]
    validation = [stage.validation for stage in stages]
    if any(validation):
        rows.append(("held-out loss", *(_before_and_after(found, "loss") for found in validation)))
        rows.append(("held-out bits per byte", *(_before_and_after(found, "bitsPerByte") for found in validation)))
    if any(stage.validation_rewards for stage in stages):
        rows.append(("held-out reward", *(_before_and_after(stage.validation_rewards, "reward") for stage in stages)))
    if not rows:
        return
    yield table(rows, "result", *(f"#{stage.run}" for stage in stages))
    yield line(
        "Tasks are those of the newest model of each stage, so a column and the one before it are after and before the "
        "stage. ± is the standard error. CORE and ChatCORE are means of centred accuracies: random answers have 0. "
        "Held-out results are the first and the last of a stage, each on the stage's own held-out text."
    )


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


def _original(stages: Sequence[Stage]) -> Iterator[str]:
    last = stages[-1]
    tasks = list(ROWS[-1].tasks)
    accuracies = {name: found.accuracy for stage in stages for name, (_, found) in stage.last_results.items()}
    averages = {name: found["value"] for stage in stages for name, found in stage.averages.items()}
    core = next((stage for stage in reversed(stages) if "CORE" in stage.averages), last)
    validation = next((stage.validation[-1] for stage in reversed(stages) if stage.validation), {})
    mine = (
        f"this chain ({last.run})",
        NONE,
        f"{seconds_of(stages).total / 3600:.2f}",
        _average(core, "CORE"),
        number(averages.get("ChatCORE")),
        number(validation.get("bitsPerByte")),
        *(number(accuracies.get(name)) for name in tasks),
    )
    rows = [
        (
            row.name,
            row.source,
            number(row.hours, 2),
            number(row.core),
            number(row.chat_core),
            number(row.bits_per_byte),
            *(number(row.tasks.get(name)) for name in tasks),
        )
        for row in (*ROWS, GPT2)
    ]
    titles = ("run", "source", "#hours", "#CORE", "#ChatCORE", "#bits per byte", *(f"#{name}" for name in tasks))
    yield table((mine, *rows), *titles)
    yield line(f"Rows of the original are from github.com/karpathy/nanochat. {' '.join(comparable(core.core_tasks))}")


def _answers(stages: Sequence[Stage]) -> Iterator[str]:
    for stage in stages:
        for task, (step, samples) in stage.last_samples.items():
            for sample in samples:
                verdict = "" if sample.right is None else ", right" if sample.right else ", wrong"
                yield _answer(f"{stage.run} at step {step:,}, {task}{verdict}", sample)
        for one in stage.rollouts:
            yield _answer(f"{stage.run}, sampled in step {one.step:,}, reward {one.reward:z.4g}", one)


def _answer(title: str, sample: AnswerSample | Rollout) -> str:
    return f"**{text(title)}**\n\n{quoted(sample.prompt)}\n\n{fenced(sample.answer)}"


def _missing(chain: Chain) -> Iterator[str]:
    if chain.notes:
        yield table(enumerate(chain.notes, 1))


def _total_cost(stages: Sequence[Stage], price: float | None) -> str:
    cost = cost_of(stages, price)
    least = at_least(all(stage.is_counted(price) for stage in stages))
    return chip_hours_words(stages) + ("" if cost is None else f", {least}{cost:,.2f}")


def _ratio(seconds: GoodputSeconds) -> str:
    return percent(seconds.productive_step / seconds.total, 1) if seconds.total else NONE


def _cell(value: float | None, form: str = "z.4f") -> str:
    return NONE if value is None else format(value, form)
