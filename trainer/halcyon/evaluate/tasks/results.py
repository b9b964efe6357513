"""Results of tasks: accuracy with its standard error, centred accuracy, and the averages CORE and ChatCORE. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """How a model did on an example.

    Attributes:
        name: The example; see `halcyon.evaluate.tasks.example`.
        is_right: Whether its answer is right. None: the task has no right answers.
        facts: What is kept besides: the answer, log-likelihoods, the outcome of a program.
        group: Part of the task that the example belongs to.
        nats: Negative log-likelihood of a given answer.
        size_bytes: Bytes of that answer.
    """

    name: str
    is_right: bool | None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    group: str | None = None
    nats: float = 0.0
    size_bytes: int = 0

    def document(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        right = {} if self.is_right is None else {"right": self.is_right}
        group = {} if self.group is None else {"group": self.group}
        return {"example": self.name, **group, **right, **self.facts}


@dataclass(frozen=True)
class TaskResult:
    """The result of a task.

    Attributes:
        task: Its name.
        examples: Number of examples.
        accuracy: Part of the examples that were right. None: the task has no right answers.
        standard_error: Of the accuracy: the sample's standard deviation divided by the root of the number of examples. None: one example.
        baseline: Accuracy of random answers.
        bits_per_byte: Of given answers: nats / (ln 2 x bytes). None: the task has no given answers.
        groups: Accuracy of each part of the task.
        seconds: Duration.
    """

    task: str
    examples: int
    accuracy: float | None
    standard_error: float | None
    baseline: float | None
    bits_per_byte: float | None
    groups: Mapping[str, float]
    seconds: float

    @property
    def centred(self) -> float | None:
        """Accuracy between random answers (0) and right ones (1): ``(accuracy - baseline) / (1 - baseline)``; below 0 if worse."""
        return None if self.accuracy is None or self.baseline is None else centred(self.accuracy, self.baseline)

    def document(self) -> dict[str, Any]:
        """The result as a JSON object; numbers that the task does not have are left out."""
        values = {
            "task": self.task,
            "examples": self.examples,
            "accuracy": self.accuracy,
            "standardError": self.standard_error,
            "baseline": self.baseline,
            "centred": self.centred,
            "bitsPerByte": self.bits_per_byte,
            "groups": dict(self.groups) or None,
            "seconds": round(self.seconds, 3),
        }
        return {name: value for name, value in values.items() if value is not None}


def centred(accuracy: float, baseline: float) -> float:
    """Accuracy on a scale where random answers have 0 and right ones 1 (Li et al. 2024, section 3.5)."""
    return (accuracy - baseline) / (1 - baseline)


def result_of(task: str, answers: Sequence[Answer], baseline: float | None, seconds: float) -> TaskResult:
    """The result of a task from the answers to its examples, of which there is at least one."""
    rights = [answer.is_right for answer in answers if answer.is_right is not None]
    size = sum(answer.size_bytes for answer in answers)
    groups: dict[str, list[bool]] = {}
    for answer in answers:
        if answer.group is not None and answer.is_right is not None:
            groups.setdefault(answer.group, []).append(answer.is_right)
    return TaskResult(
        task=task,
        examples=len(answers),
        accuracy=_mean(rights) if rights else None,
        standard_error=_standard_error(rights),
        baseline=baseline,
        bits_per_byte=math.fsum(answer.nats for answer in answers) / (math.log(2) * size) if size else None,
        groups={name: _mean(groups[name]) for name in sorted(groups)},
        seconds=seconds,
    )


def mean_centred(results: Iterable[TaskResult]) -> float:
    """The mean of the centred accuracies, each task the same weight: CORE, and ChatCORE."""
    found = [result.centred for result in results if result.centred is not None]
    return math.fsum(found) / len(found) if found else math.nan


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _standard_error(values: Sequence[bool]) -> float | None:
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(mean * (1 - mean) / (len(values) - 1))
