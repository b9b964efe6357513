"""Results of tasks: accuracy with its standard error, centred accuracy, and pass@k. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """How a model did on an example.

    Attributes:
        name: The example; see `halcyon.evals.example`.
        is_right: Whether its answer is right. None: the task has no right answers.
        facts: What is kept besides: the answer, log-likelihoods, the outcome of a program.
        group: Part of the task that the example belongs to.
        nats: Negative log-likelihood of a given answer.
        size_bytes: Bytes of that answer.
        rights: Whether each of several answers to the question is right; empty for one answer.
    """

    name: str
    is_right: bool | None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    group: str | None = None
    nats: float = 0.0
    size_bytes: int = 0
    rights: tuple[bool, ...] = ()

    @property
    def share(self) -> float | None:
        """Share of right answers to the example. None: the task has no right answers."""
        if self.rights:
            return sum(self.rights) / len(self.rights)
        return None if self.is_right is None else float(self.is_right)

    def document(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        right = {} if self.is_right is None else {"right": self.is_right}
        right |= {"rights": list(self.rights)} if self.rights else {}
        group = {} if self.group is None else {"group": self.group}
        return {"example": self.name, **group, **right, **self.facts}


@dataclass(frozen=True)
class TaskResult:
    """The result of a task.

    Attributes:
        task: Its name.
        examples: Number of examples.
        accuracy: Mean share of right answers of the examples. None: the task has no right answers.
        standard_error: Of the accuracy: the sample's standard deviation divided by the root of the number of examples. None: one example.
        baseline: Accuracy of random answers.
        bits_per_byte: Of given answers: nats / (ln 2 x bytes). None: the task has no given answers.
        groups: Accuracy of each part of the task.
        seconds: Duration.
        answers: Answers to each question.
        pass_at: Estimate of pass@k by k, of several answers (`pass_at_k`).
    """

    task: str
    examples: int
    accuracy: float | None
    standard_error: float | None
    baseline: float | None
    bits_per_byte: float | None
    groups: Mapping[str, float]
    seconds: float
    answers: int = 1
    pass_at: Mapping[int, float] = field(default_factory=dict[int, float])

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
            "answers": self.answers if self.answers > 1 else None,
            "passAt": {str(k): value for k, value in self.pass_at.items()} or None,
            "seconds": round(self.seconds, 3),
        }
        return {name: value for name, value in values.items() if value is not None}


def centred(accuracy: float, baseline: float) -> float:
    """Accuracy on a scale where random answers have 0 and right ones 1 (Li et al. 2024, section 3.5)."""
    return (accuracy - baseline) / (1 - baseline)


def pass_at_k(answers: int, right: int, k: int) -> float:
    """The chance that at least one of `k` answers is right, estimated without bias from `answers` of which `right` are right.

    ``1 - C(answers - right, k) / C(answers, k)`` (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1).

    Raises:
        ValueError: `k` is above the number of answers.
    """
    if not 1 <= k <= answers or not 0 <= right <= answers:
        raise ValueError(f"pass@{k} of {right} right answers among {answers} is not defined")
    return 1.0 - math.comb(answers - right, k) / math.comb(answers, k)


def reported_ks(answers: int) -> list[int]:
    """The k of the reported pass@k: 1, 2, 4, … and the number of answers, which is at least 1."""
    return sorted({1 << power for power in range(answers.bit_length())} | {answers})


def _pass_at(answers: Sequence[Answer]) -> dict[int, float]:
    """The mean of pass@k over the examples, for each of `reported_ks`; empty for one answer."""
    count = min((len(answer.rights) for answer in answers), default=0)
    chosen = reported_ks(count) if count > 1 else []
    return {k: math.fsum(pass_at_k(len(one.rights), sum(one.rights), k) for one in answers) / len(answers) for k in chosen}


def result_of(task: str, answers: Sequence[Answer], baseline: float | None, seconds: float) -> TaskResult:
    """The result of a task from the answers to its examples, of which there is at least one."""
    rights = [share for answer in answers if (share := answer.share) is not None]
    size = sum(answer.size_bytes for answer in answers)
    groups: dict[str, list[float]] = {}
    for answer in answers:
        if answer.group is not None and (share := answer.share) is not None:
            groups.setdefault(answer.group, []).append(share)
    return TaskResult(
        task=task,
        examples=len(answers),
        accuracy=_mean(rights) if rights else None,
        standard_error=_standard_error(rights),
        baseline=baseline,
        bits_per_byte=math.fsum(answer.nats for answer in answers) / (math.log(2) * size) if size else None,
        groups={name: _mean(groups[name]) for name in sorted(groups)},
        seconds=seconds,
        answers=max((len(answer.rights) for answer in answers), default=0) or 1,
        pass_at=_pass_at(answers),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _standard_error(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
