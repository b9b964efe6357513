"""Benchmarks on a model as a function call: what ``halcyon eval`` does."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from jax.typing import DTypeLike

from halcyon.evals.benchmarks import BENCHMARKS, read_benchmarks
from halcyon.evals.core import core_of
from halcyon.evals.example import Answer
from halcyon.evals.runner import Runner, Settings
from halcyon.evals.scores import chat_core_of
from halcyon.host.errors import BadConfiguration
from halcyon.inference import Sampling
from halcyon.inference.chat import ChatPrompts
from halcyon.models import CausalLM
from halcyon.tokenizer import Tokenizer
from halcyon_api.result_documents import TaskNumbers


@dataclass(frozen=True)
class Evaluated:
    """The results of tasks on a model.

    Attributes:
        tasks: The numbers of each task by its name: examples, accuracy, standard error.
        answers: The answer to each example, by the name of the task.
        core: CORE, the mean of the centred accuracies of its tasks; None: they were not run.
        chat_core: ChatCORE, the same of the tasks for conversations; None: not all of them were run.
    """

    tasks: Mapping[str, TaskNumbers]
    answers: Mapping[str, list[Answer]]
    core: float | None
    chat_core: float | None


def evaluate(
    model: CausalLM,
    tokenizer: Tokenizer,
    tasks: Mapping[str, str | PathLike[str]],
    *,
    most: int | None = None,
    template: str | None = None,
    plain: bool = False,
    answers: int = 1,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    slots: int = 32,
    batch_tokens: int | None = None,
    compute_dtype: DTypeLike = "float32",
) -> Evaluated:
    """Ask a model the questions of tasks.

    Args:
        model: A model of `halcyon.load`.
        tokenizer: Its tokenizer.
        tasks: The file of each task by the name of the task, such as ``{"gsm8k": "test.jsonl"}``; ``core``: the folder
            of its bundle.
        most: Most examples of each task. None: all.
        template: Chat template (Jinja). Default: that of the model.
        plain: Ask in plain text, for a model that was not trained on conversations.
        answers: Answers to each question. Several give pass@k, and need a temperature.
        temperature: See `halcyon.inference.Sampling`, as for the next three arguments.
        top_k: 0: no limit.
        top_p: 1: no limit.
        seed: Of the first example; each later example has the next number.
        slots: Answers that are generated at once.
        batch_tokens: Tokens of a batch whose likelihood is computed. None: what suits the device.
        compute_dtype: Type of activations and matrix products.

    Raises:
        BadConfiguration: There is no task of a name, a row of a file is bad, or a task runs programs of the model and
            this machine cannot run them safely.
        OSError: A file cannot be read.
        Unavailable: A program could not be run safely.
    """
    if not tasks:
        raise BadConfiguration(f"there is no task to evaluate; the tasks are {', '.join(BENCHMARKS)}, core")
    if answers > 1 and temperature == 0:
        raise BadConfiguration("at temperature 0 all answers are the same; give a temperature, such as 1")
    benchmarks = read_benchmarks({name: Path(path) for name, path in tasks.items()}, most)
    template = getattr(tokenizer, "chat_template", None) if template is None else template
    chat = None if plain else ChatPrompts.of(tokenizer, template, sight=model.sight)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    runner = Runner(model, tokenizer, chat, Settings(sampling, slots, batch_tokens, compute_dtype, answers=answers))
    found = {benchmark.name: runner.run(benchmark) for benchmark in benchmarks}
    numbers = [result for result, _ in found.values()]
    return Evaluated(
        {name: result for name, (result, _) in found.items()},
        {name: given for name, (_, given) in found.items()},
        core_of(numbers),
        chat_core_of(numbers),
    )
