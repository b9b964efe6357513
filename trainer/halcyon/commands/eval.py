"""The command ``halcyon eval``: benchmarks on a model. Options and output call a benchmark a task."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from halcyon.commands.errors import console, report_root_errors
from halcyon.commands.models import Endpoint, LoadedAs, Region
from halcyon.commands.sample import Compute, Mesh, Place, Seed, Temperature, TopK, TopP, bad_options, text_of
from halcyon.errors import BadConfiguration

if TYPE_CHECKING:
    from halcyon.evals.benchmarks import Benchmark
    from halcyon.evals.results import Answer
    from halcyon.inference.chat import ChatPrompts
    from halcyon.storage.store import Store
    from halcyon.tokenizer import Tokenizer
    from halcyon_api.result_documents import AnswerSample, TaskNumbers


def evaluate_tasks(
    place: Place,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A task and its file, or a folder of files; may be repeated."),
    ] = None,
    core: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The bundle of CORE: 22 tasks for models without finetuning.")
    ] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Most examples of each task. Default: all.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep the answer to each example here, as JSON lines, and the results."),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Keep the results in the checkpoint root, where `halcyon report --chain` finds them."
        ),
    ] = False,
    answers: Annotated[
        int, typer.Option(min=1, max=256, help="Answers to each question; several give pass@k, and need a temperature.")
    ] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the results as one JSON object.")] = False,
    template: Annotated[
        Path | None, typer.Option(help="A file with the chat template (Jinja). Default: that of the model.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Ask in plain text, for a model that was not trained on conversations.")
    ] = False,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    slots: Annotated[int, typer.Option(min=1, help="Answers that are generated at once.")] = 32,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a batch whose likelihood is computed. Default: what suits the device."),
    ] = None,
    dtype: LoadedAs = None,
    compute: Annotated[
        Compute, typer.Option(help="Type of activations, matrix products and the cache.")
    ] = Compute.FLOAT32,
    mesh: Mesh = None,
    sandbox_pool: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Run programs of the model in pods of this SandboxWarmPool of agent-sandbox, not on this machine.",
        ),
    ] = None,
    sandbox_namespace: Annotated[
        str | None,
        typer.Option(
            metavar="NAMESPACE", help="The pool's namespace. Default: that of this pod, or of the kubeconfig."
        ),
    ] = None,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Ask a model the questions of tasks, and print the part that it answers right."""
    with report_root_errors(), _terminable() if sandbox_pool else nullcontext():
        if sandbox_namespace is not None and sandbox_pool is None:
            raise BadConfiguration("--sandbox-namespace needs --sandbox-pool NAME")
        benchmarks = _benchmarks(task or (), core, most)
        if answers > 1 and temperature == 0:
            raise BadConfiguration(
                f"--answers {answers}: at temperature 0 all answers are the same; give --temperature, such as 1"
            )
        root = _root(place, endpoint, region)
        if keep and root is None:
            raise BadConfiguration(
                f"--keep: {place} is no checkpoint root; give --results FOLDER to keep the results of files"
            )
        asked = place if root is None else f"{root.address}@{root.step}"  # a run may commit a newer step meanwhile
        if results is not None:
            results.mkdir(parents=True, exist_ok=True)
        programs = _programs(benchmarks, sandbox_pool, sandbox_namespace)

        from halcyon.evals.runner import Runner, Settings
        from halcyon.inference.sampling import Sampling
        from halcyon.parallel.tensor_mesh import tensor_mesh
        from halcyon.weights.loading import load

        with bad_options():
            sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        over = None if mesh is None else tensor_mesh(mesh)
        model, tokenizer = load(
            asked, dtype=None if dtype is None else dtype.value, mesh=over, endpoint=endpoint, region=region
        )
        if tokenizer is None:
            raise BadConfiguration(f"{place}: it has no tokenizer that Halcyon reads, so text cannot become tokens")
        chat = None if plain else _chat(asked, tokenizer, template, endpoint, region)
        settings = Settings(
            sampling=sampling, slots=slots, batch_tokens=batch_tokens, compute_dtype=compute.value, answers=answers
        )
        settings = replace(settings, **programs)
        runner, shown = Runner(model, tokenizer, chat, settings), _Shown(results, quiet=json)
        for benchmark in benchmarks:
            shown.add(benchmark, *runner.run(benchmark))
        shown.end(place, "plain" if chat is None else "chat", root, keep=keep)


def _benchmarks(given: Sequence[str], core: Path | None, most: int | None) -> list[Benchmark]:
    """The benchmarks with their examples; all files are read before the model."""
    from halcyon.evals.benchmarks import BENCHMARKS, read_benchmarks
    from halcyon_api.result_documents import CORE

    files: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or not path:
            raise BadConfiguration(
                f"--task {one}: give the name of a task and its file, such as --task gsm8k=test.jsonl"
            )
        if name in files:
            raise BadConfiguration(f"--task {name}: the task is given twice; a folder may have several files")
        files[name] = Path(path)
    if core is not None:
        if CORE in files:
            raise BadConfiguration(f"--core and --task {CORE} are the same; give one of them")
        files[CORE] = core
    if not files:
        raise BadConfiguration(
            "there is nothing to evaluate; give --task NAME=PATH, or --core FOLDER. The tasks are "
            f"{', '.join(BENCHMARKS)}"
        )
    return read_benchmarks(files, most)


def _programs(benchmarks: list[Benchmark], pool: str | None, namespace: str | None) -> dict[str, Any]:
    """The members of the settings that say where programs run. The place is tried before the model is read."""
    from halcyon.evals.benchmarks import check_programs

    if pool is None or not any(one.runs_programs for one in benchmarks):
        check_programs(benchmarks)
        return {}
    from halcyon.evals.sandbox.pool import SandboxPool

    found = SandboxPool(pool, namespace)
    return {"programs": found.check(), "run_program": found.run, "stop_programs": found.stop}


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM as an interrupt: a Job that is deleted still deletes its claims."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Root(NamedTuple):
    """A checkpoint root, and the step that is evaluated."""

    store: Store
    address: str
    step: int


def _root(place: str, endpoint: str | None, region: str | None) -> _Root | None:
    """The checkpoint root of a place; None for files of Hugging Face."""
    from halcyon.checkpoint.opening import entry_of
    from halcyon.storage.store import Store
    from halcyon.weights.folder import HUB, address
    from halcyon.weights.root import split_step

    if place.startswith((HUB, "hf:")):
        return None
    root, step = split_step(place)
    store = Store(address(root, endpoint, region))
    return _Root(store, root, entry_of(store, step).step)


def _chat(
    place: str, tokenizer: Tokenizer, template: Path | None, endpoint: str | None, region: str | None
) -> ChatPrompts | None:
    """The prompts of the given template, the model's, or Halcyon's own; None for a model that has none."""
    from halcyon.inference.chat import ChatPrompts
    from halcyon.weights.chat_template import chat_template

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
        self._folder, self._quiet = folder, quiet
        self._results: list[TaskNumbers] = []
        self._samples: list[AnswerSample] = []

    def add(self, benchmark: Benchmark, result: TaskNumbers, answers: Sequence[Answer]) -> None:
        """Keep the result of a benchmark and its answers."""
        from halcyon.evals.results import samples_of

        self._results.append(result)
        self._samples += samples_of(benchmark, answers)
        if self._folder is not None:
            lines = "".join(f"{dumps(answer.document(), ensure_ascii=False)}\n" for answer in answers)
            (self._folder / f"{benchmark.name.replace('/', '-')}.jsonl").write_text(lines, encoding="utf-8")
        if not self._quiet:
            sys.stderr.write(f"{result.task}: {result.examples} examples in {result.seconds:.1f} s\n")

    def end(self, place: str, prompts: Literal["plain", "chat"], root: _Root | None, *, keep: bool) -> None:
        """Print all results, and keep them."""
        from halcyon.evals.results import document_of
        from halcyon_api.result_documents import CORE_PREFIX, results_key

        step = 0 if root is None else root.step
        found = document_of(step, prompts, self._results, self._samples, decides=None, finished=True, now=time.time())
        if keep and root is not None:
            root.store.write(
                results_key(step, of_command=True), found.model_dump_json(by_alias=True, exclude_none=True).encode()
            )
        averages = {"chatCore": found.chat_core, "core": found.core}
        document: dict[str, Any] = {"place": place, **({} if root is None else {"step": step}), "prompts": prompts}
        document["tasks"] = [_shown(one) for one in self._results if not one.task.startswith(CORE_PREFIX)]
        document |= {name: value for name, value in averages.items() if value is not None}
        if found.core is not None:
            document["coreTasks"] = [_shown(one) for one in self._results if one.task.startswith(CORE_PREFIX)]
        text = f"{dumps(document, indent=2)}\n"
        if self._folder is not None:
            (self._folder / "results.json").write_text(text, encoding="utf-8")
        if self._quiet:
            sys.stdout.write(text)
            return
        from rich.table import Table

        several = sorted({k for one in self._results for k in one.pass_at}, key=int)
        table = Table(
            "task",
            "examples",
            "accuracy",
            "standard error",
            "centred",
            "bits per byte",
            *(f"pass@{k}" for k in several),
        )
        for one in self._results:
            values = (
                one.accuracy,
                one.standard_error,
                one.centred,
                one.bits_per_byte,
                *(one.pass_at.get(k) for k in several),
            )
            table.add_row(one.task, f"{one.examples:,}", *("" if value is None else f"{value:.4f}" for value in values))
        screen = console()
        screen.print(table)
        for name, title in (("core", "CORE"), ("chatCore", "ChatCORE")):
            if name in document:
                screen.print(f"{title} {document[name]:.4f}", highlight=False)


def _shown(numbers: TaskNumbers) -> dict[str, Any]:
    """The result as a JSON object, without the numbers that the benchmark does not have."""
    return numbers.model_dump(by_alias=True, exclude_defaults=True) | {"seconds": numbers.seconds}
