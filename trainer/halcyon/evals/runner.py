"""Runs benchmarks on a model: examples become rows and prompts, and the model's numbers and texts become answers and
results.
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from halcyon.evals import core
from halcyon.evals.benchmarks import Benchmark, Grade
from halcyon.evals.example import Answer, CoreExample, Example, GivenReply, MultipleChoice, OpenQuestion, Sound
from halcyon.evals.generation import Answers, Prompts, Text
from halcyon.evals.sandbox.running import Program, Ran, run
from halcyon.evals.scores import result_of
from halcyon.evals.speech import heard_answers
from halcyon.host.errors import BadConfiguration
from halcyon.inference import Sampling
from halcyon.inference.chat import ChatPrompts
from halcyon.inference.generating import engine_for, seeded
from halcyon.inference.likelihood import Likelihoods, Span, span_of
from halcyon.models import CausalLM
from halcyon.tokenizer import Tokenizer, check_rows, first_id
from halcyon_api.result_documents import TaskNumbers

MOST_TOKENS = 512
"""Most tokens of an answer, calls of the calculator included."""


@dataclass(frozen=True)
class Settings:
    """Settings of an evaluation.

    Attributes:
        sampling: How answers are chosen; each example has the next seed. Its most tokens and stop strings are those of
            the benchmark.
        slots: Answers that are generated at once.
        batch_tokens: Positions of a batch of rows whose likelihood is computed. None: what suits the device.
        compute_dtype: Type of activations and matrix products.
        answers: Answers to each question; the results of several have pass@k.
    """

    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.0))
    slots: int = 32
    batch_tokens: int | None = None
    compute_dtype: DTypeLike = jnp.float32
    answers: int = 1


class Runner:
    """Runs benchmarks on one model.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        chat: Its chat template. None: it gets prompts as plain text.
        settings: The settings.
        on_progress: Called often while texts are generated and their programs run. An exception of it ends the
            benchmark.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        chat: ChatPrompts | None = None,
        settings: Settings | None = None,
        on_progress: Callable[[], object] = lambda: None,
    ) -> None:
        check_rows(tokenizer.vocab_size, model.token_count)
        self._model, self._settings = model, settings or Settings()
        self._tokenizer, self._prompts, self._on_progress = tokenizer, Prompts(tokenizer, chat), on_progress
        self._likelihoods = Likelihoods(
            model, compute_dtype=self._settings.compute_dtype, batch_tokens=self._settings.batch_tokens
        )

    def run(self, benchmark: Benchmark) -> tuple[TaskNumbers, list[Answer]]:
        """Run a benchmark. See `answers`.

        Returns:
            The result, and the answer to each example in their order.
        """
        begin = time.monotonic()
        answers = self.answers(benchmark, benchmark.examples)
        return result_of(benchmark.name, answers, benchmark.baseline, time.monotonic() - begin), answers

    def answers(self, benchmark: Benchmark, examples: Sequence[Example]) -> list[Answer]:
        """The model's answer to each of some examples of a benchmark, in their order.

        Raises:
            BadConfiguration: The chat template does not take an example, an answer is longer than the model's
                positions, or the model has diverged.
            Unavailable: A program could not be run safely.
        """
        if self._model.sound is not None and not isinstance(examples[0], Sound):
            raise BadConfiguration(f"task {benchmark.name}: the model writes down sounds alone; use the task speech")
        if benchmark.grade is not None:
            answers = self._open_questions(examples, benchmark.grade)
        else:
            of_kind: Any = {
                MultipleChoice: self._choices,
                GivenReply: self._replies,
                CoreExample: self._core,
                Sound: self._sounds,
            }
            answers = of_kind[type(examples[0])](examples)
        check_finite(answers)
        return answers

    def _core(self, examples: Sequence[CoreExample]) -> list[Answer]:
        first = first_id(self._tokenizer)
        spans = [
            core.spans_of(example, lambda text: np.concatenate(([first], self._tokenizer.encode(text))))
            for example in examples
        ]
        scores = iter(self._likelihoods.scores([span for of_example in spans for span in of_example]))
        return [
            core.answer_of(example, [next(scores) for _ in of_example])
            for example, of_example in zip(examples, spans, strict=True)
        ]

    def _choices(self, examples: Sequence[MultipleChoice]) -> list[Answer]:
        spans: list[Span] = []
        for example in examples:
            ids, images = self._prompts.seen(example.prompt)
            spans += [
                span_of(ids, self._prompts.answer_ids(answer), example.name, images) for answer in example.answers
            ]
        scores = iter(self._likelihoods.scores(spans))
        answers: list[Answer] = []
        for example in examples:
            log_probs = [next(scores).log_prob for _ in example.answers]
            chosen, right = int(np.argmax(log_probs)), example.answers[example.gold]
            facts = {"answer": example.answers[chosen], "gold": right, "logLikelihoods": log_probs}
            answers.append(Answer(example.name, chosen == example.gold, facts, example.group))
        return answers

    def _replies(self, examples: Sequence[GivenReply]) -> list[Answer]:
        room = self._model.max_position.size
        encoded = [self._tokenizer.encode(example.answer)[:room] for example in examples]
        spans = [
            span_of(self._prompts.seen(example.prompt)[0], ids, example.name)
            for example, ids in zip(examples, encoded, strict=True)
        ]
        answers: list[Answer] = []
        for example, ids, score in zip(examples, encoded, self._likelihoods.scores(spans), strict=True):
            size = int(np.sum(self._tokenizer.token_bytes[ids]))
            facts = {"logLikelihood": score.log_prob, "bytes": size}
            answers.append(Answer(example.name, None, facts, nats=-score.log_prob, size_bytes=size))
        return answers

    def _sounds(self, examples: Sequence[Sound]) -> list[Answer]:
        answers: list[Answer] = []
        for answer in heard_answers(self._model, self._tokenizer, examples, compute_dtype=self._settings.compute_dtype):
            answers.append(answer)
            self._on_progress()
        return answers

    def _open_questions(self, examples: Sequence[Any], grade: Grade) -> list[Answer]:
        count = self._settings.answers
        asked: list[OpenQuestion] = [example for example in examples for _ in range(count)]
        texts = self._texts(asked)
        graded = [grade(example, text.text) for example, text in zip(asked, texts, strict=True)]
        answers: list[Answer] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = pool.map(lambda mark: run(mark) if isinstance(mark, Program) else mark, graded)
            for example, text, outcome in zip(asked, texts, outcomes, strict=True):
                answers.append(_answered(example, text, outcome))
                self._on_progress()
        if count == 1:
            return answers
        return [_joined(answers[place : place + count]) for place in range(0, len(answers), count)]

    def _texts(self, examples: Sequence[OpenQuestion]) -> list[Text]:
        prompts = [self._prompts.seen(example.prompt) for example in examples]
        fitting = [ids for ids, _ in prompts if len(ids) < self._model.max_position.size]
        if not fitting:
            return [Text("", 0, "prompt")] * len(prompts)
        slots, dtype = self._settings.slots, self._settings.compute_dtype
        engine = engine_for(self._model, self._tokenizer, fitting, MOST_TOKENS, slots=slots, compute_dtype=dtype)
        common = seeded(self._settings.sampling, len(prompts))
        settings = [
            replace(one, max_tokens=MOST_TOKENS, stop=self._prompts.stop(example.prompt))
            for one, example in zip(common, examples, strict=True)
        ]
        return Answers(engine, self._prompts, on_step=self._on_progress).answers(prompts, settings)


def _joined(answers: Sequence[Answer]) -> Answer:
    """Several answers to one question."""
    rights = tuple(answer.is_right is True for answer in answers)
    return Answer(answers[0].name, rights[0], {"answers": [dict(answer.facts) for answer in answers]}, rights=rights)


def _answered(example: OpenQuestion, text: Text, outcome: bool | Ran) -> Answer:
    facts: dict[str, Any] = {"text": text.text, "tokens": text.tokens, "finish": text.finish}
    if isinstance(outcome, Ran):
        facts |= {"outcome": outcome.outcome, "errors": outcome.errors[-500:]}
        return Answer(example.name, outcome.outcome == "passed", facts)
    return Answer(example.name, outcome is True, facts)


def check_finite(answers: Sequence[Answer]) -> None:
    """Reject numbers of a model that has diverged.

    Raises:
        BadConfiguration: A log-likelihood is no number.
    """
    for answer in answers:
        several = (answer.facts.get(name, ()) for name in ("logLikelihoods", "logLikelihoodsPerToken"))
        if any(map(math.isnan, (answer.facts.get("logLikelihood", 0.0), *itertools.chain(*several)))):
            raise BadConfiguration(
                f"{answer.name}: the model's log-likelihood is no number; evaluate a checkpoint that has not diverged"
            )
