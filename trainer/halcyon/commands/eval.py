"""The command ``halcyon eval``: benchmarks on a model. Options and output call a benchmark a task."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from halcyon.commands import options
from halcyon.commands.errors import console, report_root_errors
from halcyon.commands.terminal import COMPILING_MODEL, waiting
from halcyon.commands.views.tables import FittedTable
from halcyon.host.errors import BadConfiguration
from halcyon_api import result_documents

if TYPE_CHECKING:
    from halcyon.evals.benchmarks import Benchmark


_MOST_LIKELY = options.Chosen(temperature=0.0)


def evaluate_tasks(
    *,
    place: options.Place,
    task: list[str] | None = None,
    core: Path | None = None,
    most: options.AtLeast1 | None = None,
    results: Path | None = None,
    keep: bool = False,
    answers: Annotated[int, typer.Option(min=1, max=256)] = 1,
    json: options.Json = False,
    template: options.Template = None,
    plain: bool = False,
    chosen: options.Chosen = _MOST_LIKELY,
    slots: options.AtLeast1 = 32,
    batch_tokens: options.AtLeast1 | None = None,
    loaded: options.Loaded,
) -> None:
    """Ask a model the questions of tasks, and print the part that it answers right.

    Args:
        task (NAME=PATH): A task and its file, or a folder of files; may be repeated.
        core (FOLDER): The bundle of CORE: 22 tasks for models without finetuning.
        most: Most examples of each task. Default: all.
        results (FOLDER): Keep the answer to each example here, as JSON lines, and the results.
        keep: Keep the results in the checkpoint root, where `halcyon report --chain` finds them.
        answers: Answers to each question; several give pass@k, and need a temperature.
        plain: Ask in plain text, for a model that was not trained on conversations.
        slots: Answers that are generated at once.
        batch_tokens: Tokens of a batch whose likelihood is computed. Default: what suits the device.
    """
    with report_root_errors():
        benchmarks = _benchmarks(task or (), core, most)
        if answers > 1 and chosen.temperature == 0:
            raise BadConfiguration(
                f"--answers {answers}: at temperature 0 all answers are the same; give --temperature, such as 1"
            )
        source = loaded.source(place, template=template)
        entry = source.newest() if source.is_root else None  # a run may commit a newer step meanwhile
        if keep and entry is None:
            raise BadConfiguration(
                f"--keep: {place} is no checkpoint root; give --results FOLDER to keep the results of files"
            )
        if results is not None:
            results.mkdir(parents=True, exist_ok=True)

        from halcyon.evals.runner import Runner, Settings
        from halcyon.evals.scores import document_of, samples_of

        sampling = chosen.sampling()
        model, tokenizer = source.read(entry)
        chat = None if plain else source.prompts(model, tokenizer, entry)
        runner = Runner(
            model,
            tokenizer,
            chat,
            Settings(sampling, slots, batch_tokens, loaded.compute, answers=answers),
        )
        numbers: list[result_documents.TaskNumbers] = []
        samples: list[result_documents.AnswerSample] = []
        for benchmark in benchmarks:
            with waiting(f"{'' if numbers else f'{COMPILING_MODEL}, then '}asking the questions of {benchmark.name}"):
                result, given = runner.run(benchmark)
            numbers.append(result)
            samples += samples_of(benchmark, given)
            if results is not None:
                lines = (f"{dumps(answer.document(), ensure_ascii=False)}\n" for answer in given)
                (results / f"{benchmark.name.replace('/', '-')}.jsonl").write_text("".join(lines), encoding="utf-8")
            if not json:
                sys.stderr.write(f"{result.task}: {result.examples} examples in {result.seconds:.1f} s\n")
        step = 0 if entry is None else entry.step
        prompts: Literal["plain", "chat"] = "plain" if chat is None else "chat"
        kept = document_of(step, prompts, numbers, samples, decides=None, finished=True, now=time.time())
        if keep:
            source.store.write(
                result_documents.results_key(step, of_command=True),
                kept.model_dump_json(by_alias=True, exclude_none=True).encode(),
            )
        document = {"place": place} | ({} if entry is None else {"step": step}) | _document(kept)
        text = f"{dumps(document, indent=2)}\n"
        if results is not None:
            (results / "results.json").write_text(text, encoding="utf-8")
        if json:
            sys.stdout.write(text)
        else:
            _print(kept)


def _benchmarks(given: Sequence[str], core: Path | None, most: int | None) -> list[Benchmark]:
    """The benchmarks with their examples; all files are read before the model."""
    from halcyon.evals.benchmarks import BENCHMARKS, read_benchmarks

    files: dict[str, Path] = {}
    for task in given:
        name, equals, path = task.partition("=")
        if not equals or not path:
            raise BadConfiguration(
                f"--task {task}: give the name of a task and its file, such as --task gsm8k=test.jsonl"
            )
        if name in files:
            raise BadConfiguration(f"--task {name}: the task is given twice; a folder may have several files")
        files[name] = Path(path)
    if core is not None:
        if result_documents.CORE in files:
            raise BadConfiguration(f"--core and --task {result_documents.CORE} are the same; give one of them")
        files[result_documents.CORE] = core
    if not files:
        raise BadConfiguration(
            "there is nothing to evaluate; give --task NAME=PATH, or --core FOLDER. The tasks are "
            f"{', '.join(BENCHMARKS)}"
        )
    return read_benchmarks(files, most)


def _document(results: result_documents.TaskResults) -> dict[str, Any]:
    """The results as a JSON object, without the numbers that a benchmark does not have."""

    def shown(*, of_core: bool) -> list[dict[str, Any]]:
        tasks = [
            numbers for numbers in results.tasks if numbers.task.startswith(result_documents.CORE_PREFIX) is of_core
        ]
        return [task.model_dump(by_alias=True, exclude_defaults=True) | {"seconds": task.seconds} for task in tasks]

    document: dict[str, Any] = {"prompts": results.prompts, "tasks": shown(of_core=False)}
    averages = {"chatCore": results.chat_core, "core": results.core}
    document |= {name: value for name, value in averages.items() if value is not None}
    return document | ({"coreTasks": shown(of_core=True)} if results.core is not None else {})


def _print(results: result_documents.TaskResults) -> None:
    several = sorted({k for numbers in results.tasks for k in numbers.pass_at}, key=int)
    columns = "examples", "accuracy", "standard error", "centred", "bits per byte", "word errors"
    passes = [f"pass@{k}" for k in several]
    drops = *passes[1:-1], "word errors", "bits per byte", "examples", "centred", "standard error"
    table = FittedTable("task", numbers=(*columns, *passes), drops=drops)
    for one in results.tasks:
        values = (
            one.accuracy,
            one.standard_error,
            one.centred,
            one.bits_per_byte,
            one.word_error_rate,
            *map(one.pass_at.get, several),
        )
        table.add_row(one.task, f"{one.examples:,}", *("" if value is None else f"{value:z.4f}" for value in values))
    screen = console()
    screen.print(table)
    for name, (value, tasks) in results.averages.items():
        screen.print(f"{result_documents.task_title(name, tasks)} {value:z.4f}", highlight=False)
