"""The first three sentences of a report card: what the model learned, what it cannot do, and what it cost. Pure."""

import math
from collections.abc import Sequence

from halcyon_api.counting import counted
from halcyon_api.result_documents import CORE_PREFIX, TaskNumbers, core_title
from halcyon_cli.chain.stage import Stage, at_least, chip_hours_words, cost_of, seconds_of, tokens_of
from halcyon_cli.report import span

_ERRORS = 2.0
"""Standard errors above random answers from which on a model is better than they are."""
_MOST_TASKS = 4
"""Tasks that a sentence names."""


def verdict(stages: Sequence[Stage], price: float | None) -> str:
    """The three sentences.

    Args:
        stages: The stages of the chain, of which the last one made the model.
        price: Price of a chip for an hour. None: the one that each document gave.
    """
    tasks = {name: found for stage in stages for name, (_, found) in stage.last_results.items()}
    known = [one for name, one in tasks.items() if not name.startswith(CORE_PREFIX) and one.accuracy is not None]
    return " ".join((_learned(stages, known), _cannot(known), _cost(stages, price)))


def _learned(stages: Sequence[Stage], tasks: Sequence[TaskNumbers]) -> str:
    source = tokens_of(stages) or counted(len(stages), "stage")
    facts = [fact for stage in stages if (fact := _validation(stage))]
    good = [one for one in tasks if _is_better(one)]
    facts += (f"{one.accuracy:z.1%} of its answers to {one.task} are right" for one in good[:_MOST_TASKS])
    last = next((stage for stage in reversed(stages) if "CORE" in stage.averages), None)
    if last is not None:
        facts.append(
            f"{core_title(last.core_tasks)} is {last.averages['CORE']['value']:z.4f}, where random answers have 0"
        )
    if not facts:
        return f"The model learned from {source}; no held-out loss and no task shows how much."
    return f"The model learned from {source}: {'; '.join(facts)}."


def _validation(stage: Stage) -> str:
    """How a stage changed its held-out reward or loss, in a few words; empty if that is not known."""
    for name, unit, found in (
        ("reward", "", stage.validation_rewards),
        ("loss", " nats per token", stage.validation),
    ):
        values = [one[name] for one in found if math.isfinite(one[name])]
        if len(values) > 1:
            return f"the held-out {name} of {stage.run} went from {values[0]:z.4f} to {values[-1]:z.4f}{unit}"
        if values:
            return f"the held-out {name} of {stage.run} is {values[0]:z.4f}{unit}"
    return ""


def _is_better(one: TaskNumbers) -> bool:
    """Whether the answers to a task are clearly better than random ones, or than none where those have no accuracy.
    One answer shows neither.
    """
    error = math.inf if one.standard_error is None else one.standard_error
    return (one.accuracy or 0.0) - (one.baseline or 0.0) > _ERRORS * error


def _cannot(tasks: Sequence[TaskNumbers]) -> str:
    if not tasks:
        return "What it cannot do was not measured: no task was run on it."
    tasks = [one for one in tasks if one.standard_error is not None]
    if not tasks:
        return "What it cannot do was not measured: no task had more than one example."
    bad = [one.task for one in tasks if not _is_better(one)]
    if bad:
        names = ", ".join(bad[:_MOST_TASKS]) + (f" and {len(bad) - _MOST_TASKS} more" if len(bad) > _MOST_TASKS else "")
        return f"It cannot do {names}: its answers there are no better than random ones."
    worst = min(tasks, key=lambda one: one.accuracy or 0.0)
    return f"It cannot be relied on: {1 - (worst.accuracy or 0.0):z.1%} of its answers to {worst.task} are wrong."


def _cost(stages: Sequence[Stage], price: float | None) -> str:
    time, cost = span(seconds_of(stages).total), cost_of(stages, price)
    used = f"It cost {time} and {chip_hours_words(stages)}"
    if cost is None:
        return f"{used}; the price of a chip hour is not known."
    least = at_least(all(stage.is_counted(price) for stage in stages))
    return f"{used}, which is {least}{cost:,.2f} in the currency of the price."
