"""Results of benchmarks: accuracy with its standard error and pass@k, and the document that keeps them. Pure.

The document is `halcyon_api.result_documents`.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from halcyon.evals.benchmarks import BENCHMARKS, Benchmark
from halcyon.evals.core import centred, core_of, mean
from halcyon.evals.example import Answer, MultipleChoice, OpenQuestion, Sound
from halcyon_api.result_documents import SAMPLES, AnswerSample, TaskNumbers, TaskResults

_LONGEST = 1000
"""Characters of a kept question or answer."""
_OPTIONAL = "spelling-bee"
"""The benchmark that ChatCORE may lack, as in its first form."""


def pass_at_k(answers: int, right: int, k: int) -> float:
    """The chance that at least one of `k` answers is right, estimated without bias from `answers` of which `right` are
    right.

    ``1 - C(answers - right, k) / C(answers, k)`` (Chen et al. 2021, "Evaluating Large Language Models Trained on Code",
    equation 1).

    Raises:
        ValueError: `k` is above the number of answers.
    """
    if not 1 <= k <= answers or not 0 <= right <= answers:
        raise ValueError(f"pass@{k} of {right} right answers among {answers} is not defined")
    return 1.0 - math.comb(answers - right, k) / math.comb(answers, k)


def reported_ks(answers: int) -> list[int]:
    """The k of the reported pass@k: 1, 2, 4, … and the number of answers, which is at least 1."""
    return sorted({1 << power for power in range(answers.bit_length())} | {answers})


def result_of(name: str, answers: Sequence[Answer], baseline: float | None, seconds: float) -> TaskNumbers:
    """The result of a benchmark from the answers to its examples, of which there is at least one.

    The standard error is the sample's standard deviation divided by the root of the number of examples.
    """
    rights = [share for answer in answers if (share := answer.share) is not None]
    accuracy = mean(rights)
    size = sum(answer.size_bytes for answer in answers)
    words = sum(answer.words for answer in answers)
    bits = math.fsum(answer.nats for answer in answers) / (math.log(2) * size) if size else math.nan
    groups: dict[str, list[float]] = {}
    for answer in answers:
        if answer.group is not None and (share := answer.share) is not None:
            groups.setdefault(answer.group, []).append(share)
    return TaskNumbers(
        task=name,
        examples=len(answers),
        accuracy=accuracy,
        standard_error=_standard_error(rights),
        baseline=baseline,
        centred=None if accuracy is None or baseline is None else centred(accuracy, baseline),
        bits_per_byte=bits if math.isfinite(bits) else None,
        word_error_rate=sum(answer.errors for answer in answers) / words if words else None,
        groups={name: math.fsum(shares) / len(shares) for name, shares in sorted(groups.items())},
        answers=max((len(answer.rights) for answer in answers), default=0) or 1,
        pass_at=_pass_at(answers),
        seconds=round(max(0.0, seconds), 3),
    )


def samples_of(benchmark: Benchmark, answers: Sequence[Answer]) -> list[AnswerSample]:
    """The first answers of a benchmark, for readers; none for CORE, whose texts are long, and none for given
    replies.
    """
    samples: list[AnswerSample] = []
    for example, answer in zip(benchmark.examples[:SAMPLES], answers, strict=False):
        if not isinstance(example, MultipleChoice | OpenQuestion | Sound):
            continue
        asked = example.text if isinstance(example, Sound) else example.prompt.messages[-1]["content"]
        facts: Any = answer.facts.get("answers", [answer.facts])[0]
        texts = example.name, asked, facts.get("text", facts.get("answer", ""))
        name, prompt, answered = (text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …" for text in texts)
        samples.append(
            AnswerSample(task=benchmark.name, example=name, prompt=prompt, answer=answered, right=answer.is_right)
        )
    return samples


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


def chat_core_of(tasks: Sequence[TaskNumbers]) -> float | None:
    """ChatCORE: the mean of the centred accuracies of ARC (both), MMLU, GSM8K, HumanEval, and SpellingBee; None if one
    is missing, or has no centred accuracy.

    SpellingBee may be left out, as in the first form of ChatCORE.
    """
    wanted = {benchmark.name for benchmark in BENCHMARKS.values() if benchmark.in_chat_core}
    centred_by_task = {task.task: task.centred for task in tasks if task.task in wanted and task.centred is not None}
    return mean(centred_by_task.values()) if wanted - {_OPTIONAL} <= set(centred_by_task) else None


def _standard_error(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    middle = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1) / len(values))


def _pass_at(answers: Sequence[Answer]) -> dict[str, float]:
    """The mean of pass@k over the examples, for each of `reported_ks`; empty for one answer."""
    count = min((len(answer.rights) for answer in answers), default=0)
    ks = reported_ks(count) if count > 1 else []
    return {
        str(k): math.fsum(pass_at_k(len(one.rights), sum(one.rights), k) for one in answers) / len(answers) for k in ks
    }
