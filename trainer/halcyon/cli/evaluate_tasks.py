"""The command ``halcyon eval``: tasks and CORE on a model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from halcyon.cli.errors import console, report_root_errors
from halcyon.cli.models import Endpoint, LoadedAs, Region
from halcyon.cli.sample import Compute, Place, Seed, Temperature, TopK, TopP, bad_options, text_of
from halcyon.errors import BadConfiguration

if TYPE_CHECKING:
    from halcyon.evaluate.tasks.core import CoreExample, CoreTask
    from halcyon.evaluate.tasks.example import Example
    from halcyon.evaluate.tasks.registry import Task
    from halcyon.evaluate.tasks.results import Answer, TaskResult
    from halcyon.inference.chat import ChatPrompts
    from halcyon.tokenizer import Tokenizer


def evaluate_tasks(
    place: Place,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A task and its file, or a folder of files; may be repeated."),
    ] = None,
    core: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The bundle of CORE: 22 tasks for models without finetuning.")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Most examples of each task. Default: all.")] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep the answer to each example here, as JSON lines, and the results.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
    template: Annotated[Path | None, typer.Option(help="A file with the chat template (Jinja). Default: that of the model.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Ask in plain text, for a model that was not trained on conversations.")] = False,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    slots: Annotated[int, typer.Option(min=1, help="Answers that are generated at once.")] = 32,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a batch whose likelihood is computed. Default: what suits the device.")
    ] = None,
    dtype: LoadedAs = None,
    compute: Annotated[Compute, typer.Option(help="Type of activations, matrix products and the cache.")] = Compute.FLOAT32,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Ask a model the questions of tasks, and print the part that it answers right."""
    with report_root_errors():
        chosen = _tasks(task or (), most)
        bundle = _bundle(core, most)
        if not chosen and not bundle:
            raise BadConfiguration(f"there is nothing to evaluate; give --task NAME=PATH, or --core FOLDER. {_names()}")
        if any(one.runs_programs for one, _ in chosen):
            from halcyon.sandbox.running import check

            check()
        if results is not None:
            results.mkdir(parents=True, exist_ok=True)

        from halcyon.benchmarks.running import Runner, Settings
        from halcyon.evaluate.tasks.results import mean_centred
        from halcyon.inference.sampling import Sampling
        from halcyon.loading import load

        with bad_options():
            sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        model, tokenizer = load(place, dtype=None if dtype is None else dtype.value, endpoint=endpoint, region=region)
        if tokenizer is None:
            raise BadConfiguration(f"{place}: it has no tokenizer that Halcyon reads, so text cannot become tokens")
        chat = None if plain else _chat(place, tokenizer, template, endpoint, region)
        settings = Settings(sampling=sampling, slots=slots, batch_tokens=batch_tokens, compute_dtype=compute.value)
        runner, shown = Runner(model, tokenizer, chat, settings), _Shown(results, quiet=json)
        document: dict[str, Any] = {"place": place, "prompts": "plain" if chat is None else "chat"}
        of_tasks = [shown.add(one.name, *runner.task(one, examples)) for one, examples in chosen]
        document["tasks"] = [result.document() for result in of_tasks]
        in_chat_core = [one.in_chat_core for one, _ in chosen]
        if _has_chat_core([one.name for one, _ in chosen]):
            document["chatCore"] = mean_centred(result for result, counts in zip(of_tasks, in_chat_core, strict=True) if counts)
        of_core = [shown.add(f"core-{one.name}", *runner.core(one.name, one.baseline, examples)) for one, examples in bundle]
        if of_core:
            document["core"] = mean_centred(of_core)
            document["coreTasks"] = [result.document() for result in of_core]
        shown.end(document)


def _tasks(given: Sequence[str], most: int | None) -> list[tuple[Task, list[Example]]]:
    """The tasks and their examples; all files are read before the model."""
    from halcyon.evaluate.tasks.registry import task_named

    found: list[tuple[Task, list[Example]]] = []
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or not path:
            raise BadConfiguration(f"--task {one}: give the name of a task and its file, such as --task gsm8k=test.jsonl")
        task = task_named(name)
        if task in [other for other, _ in found]:
            raise BadConfiguration(f"--task {name}: the task is given twice; a folder may have several files")
        found.append((task, task.read(Path(path), most)))
    return found


def _bundle(folder: Path | None, most: int | None) -> list[tuple[CoreTask, list[CoreExample]]]:
    if folder is None:
        return []
    from halcyon.evaluate.tasks.core import read_bundle, read_examples

    return [(one, read_examples(one, most)) for one in read_bundle(folder)]


def _names() -> str:
    from halcyon.evaluate.tasks.registry import TASKS

    return f"The tasks are {', '.join(TASKS)}"


def _has_chat_core(names: Sequence[str]) -> bool:
    """Whether all tasks of ChatCORE are there; SpellingBee may be left out, as in its first form."""
    from halcyon.evaluate.tasks.registry import TASKS

    return all(name in names for name, task in TASKS.items() if task.in_chat_core and name != "spelling-bee")


def _chat(place: str, tokenizer: Tokenizer, template: Path | None, endpoint: str | None, region: str | None) -> ChatPrompts | None:
    """The prompts of the given template, the model's, or Halcyon's own; None for a model that has none."""
    from halcyon.huggingface.chat_template import chat_template
    from halcyon.inference.chat import ChatPrompts

    if template is not None:
        return ChatPrompts(tokenizer, text_of(template, "--template"))
    found = chat_template(place, endpoint=endpoint, region=region)
    return None if found is None and not ChatPrompts.has_own_marks(tokenizer) else ChatPrompts(tokenizer, found)


class _Shown:
    """Prints results as they come, and keeps them.

    Args:
        folder: Where answers are kept. None: nowhere.
        quiet: Whether only the JSON object is printed.
    """

    def __init__(self, folder: Path | None, *, quiet: bool) -> None:
        self._folder, self._quiet, self._results = folder, quiet, list["TaskResult"]()

    def add(self, name: str, result: TaskResult, answers: Sequence[Answer]) -> TaskResult:
        """Keep the result of a task and its answers."""
        self._results.append(result)
        if self._folder is not None:
            lines = "".join(f"{dumps(answer.document(), ensure_ascii=False)}\n" for answer in answers)
            (self._folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        if not self._quiet:
            sys.stderr.write(f"{result.task}: {result.examples} examples in {result.seconds:.1f} s\n")
        return result

    def end(self, document: dict[str, Any]) -> None:
        """Print all results."""
        text = f"{dumps(document, indent=2)}\n"
        if self._folder is not None:
            (self._folder / "results.json").write_text(text, encoding="utf-8")
        if self._quiet:
            sys.stdout.write(text)
            return
        from rich.table import Table

        table = Table("task", "examples", "accuracy", "standard error", "centred", "bits per byte")
        for result in self._results:
            numbers = (result.accuracy, result.standard_error, result.centred, result.bits_per_byte)
            table.add_row(result.task, f"{result.examples:,}", *("" if number is None else f"{number:.4f}" for number in numbers))
        screen = console()
        screen.print(table)
        for name, title in (("core", "CORE"), ("chatCore", "ChatCORE")):
            if name in document:
                screen.print(f"{title} {document[name]:.4f}", highlight=False)
