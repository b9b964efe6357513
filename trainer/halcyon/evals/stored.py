"""The document with the results of tasks, as a checkpoint root keeps it (`halcyon_api.task_results`). Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from halcyon.evals.chosen import Chosen, ChosenTask
from halcyon.evals.example import Reply
from halcyon.evals.registry import TASKS
from halcyon.evals.results import Answer, TaskResult
from halcyon_api.task_results import CORE_PREFIX, SAMPLES, AnswerSample, TaskNumbers, TaskResults

_LONGEST = 1000
"""Characters of a kept question or answer."""
_OPTIONAL = "spelling-bee"
"""The task that ChatCORE may lack, as in its first form."""


def numbers_of(result: TaskResult) -> TaskNumbers:
    """The stored form of a result."""
    return TaskNumbers(
        task=result.task,
        examples=result.examples,
        accuracy=_finite(result.accuracy),
        standard_error=_finite(result.standard_error),
        baseline=result.baseline,
        centred=_finite(result.centred),
        bits_per_byte=_finite(result.bits_per_byte),
        answers=result.answers,
        pass_at={str(k): value for k, value in result.pass_at.items()},
        groups=dict(result.groups),
        seconds=round(max(0.0, result.seconds), 3),
    )


def samples_of(chosen: Chosen, answers: Sequence[Answer]) -> list[AnswerSample]:
    """The first answers of a task, for readers; none for CORE, whose texts are long, and none for given answers."""
    if not isinstance(chosen, ChosenTask):
        return []
    found: list[AnswerSample] = []
    for example, answer in zip(chosen.examples[:SAMPLES], answers, strict=False):
        if isinstance(example, Reply):
            continue
        facts: Any = answer.facts.get("answers", [answer.facts])[0]
        answered = facts.get("text", facts.get("answer", ""))
        asked = example.prompt.messages[-1]["content"]
        found.append(
            AnswerSample(task=chosen.name, example=_cut(example.name), prompt=_cut(asked), answer=_cut(answered), right=answer.is_right)
        )
    return found


def document_of(
    step: int,
    prompts: Literal["plain", "chat"],
    tasks: Sequence[TaskNumbers],
    samples: Sequence[AnswerSample],
    *,
    decides: str | None,
    finished: bool,
    now: float,
) -> TaskResults:
    """The document to store.

    Args:
        step: Steps done of the model's run.
        prompts: How the model was asked.
        tasks: Results of the tasks that are done.
        samples: Answers to keep.
        decides: Hash of the model and the settings.
        finished: Whether all tasks are done.
        now: Seconds since 1970.
    """
    return TaskResults(
        step=step,
        prompts=prompts,
        decides=decides,
        tasks=tuple(tasks),
        core=core_of(tasks),
        chat_core=chat_core_of(tasks),
        samples=tuple(samples),
        finished=finished,
        time=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def parse_results(content: bytes | None) -> TaskResults | None:
    """A stored document; None if it is absent or not valid."""
    if content is None:
        return None
    try:
        return TaskResults.model_validate_json(content, by_alias=True, by_name=False)
    except ValidationError:
        return None


def core_of(tasks: Iterable[TaskNumbers]) -> float | None:
    """CORE: the mean of the centred accuracies of its tasks; None without them."""
    return _mean(one.centred for one in tasks if one.task.startswith(CORE_PREFIX))


def chat_core_of(tasks: Sequence[TaskNumbers]) -> float | None:
    """ChatCORE: the mean of the centred accuracies of ARC (both), MMLU, GSM8K, HumanEval, and SpellingBee; None if one is missing.

    SpellingBee may be left out, as in the first form of ChatCORE.
    """
    wanted = [name for name, task in TASKS.items() if task.in_chat_core]
    found = {one.task: one.centred for one in tasks if one.task in wanted}
    if any(name not in found for name in wanted if name != _OPTIONAL):
        return None
    return _mean(found.values())


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return math.fsum(found) / len(found) if found else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
