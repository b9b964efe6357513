"""The benchmarks by name, and those that a document or a command names, with their examples.

They are read before any model.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from halcyon.evals import core, speech, tasks
from halcyon.evals.example import Example, OpenQuestion
from halcyon.evals.rows import Row, read_rows
from halcyon.evals.sandbox.running import Program, check
from halcyon.host.errors import BadConfiguration
from halcyon_api.plain_files import user_path
from halcyon_api.result_documents import CORE, CORE_PREFIX
from halcyon_api.spec.evaluation import TasksSpec

Grade = Callable[[OpenQuestion, str], bool | Program]
"""Whether a text is right, or the program that decides it."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark with its examples.

    Attributes:
        name: Its name in results.
        baseline: Accuracy of random answers. None: it has no accuracy.
        examples: Its examples, at least one, all of one kind.
        grade: For open questions, which need a model with a cache. None: other examples.
        runs_programs: Whether answers are run in the sandbox.
    """

    name: str
    baseline: float | None
    examples: Sequence[Example]
    grade: Grade | None = None
    runs_programs: bool = False


@dataclass(frozen=True)
class Published:
    """How a benchmark is published.

    Attributes:
        name: Its name.
        parse: The examples of the rows of a file. It raises `BadConfiguration` for a bad row.
        baseline: See `Benchmark`.
        grade: See `Benchmark`.
        runs_programs: See `Benchmark`.
        in_chat_core: Whether it belongs to ChatCORE.
    """

    name: str
    parse: Callable[[Iterable[Row]], Iterator[Example]]
    baseline: float | None
    grade: Grade | None = None
    runs_programs: bool = False
    in_chat_core: bool = True

    def read(self, path: Path, most: int | None = None) -> Benchmark:
        """The benchmark with the examples of a file or folder.

        Args:
            path: The file or folder.
            most: Only this number of examples, from the first on. None: all.

        Raises:
            BadConfiguration: A row is bad, or there is none.
        """
        examples = tuple(islice(self.parse(read_rows(path)), most))
        if not examples:
            raise BadConfiguration(f"{path}: the file has no example of {self.name}")
        return Benchmark(self.name, self.baseline, examples, self.grade, self.runs_programs)


BENCHMARKS: Mapping[str, Published] = {
    benchmark.name: benchmark
    for benchmark in (
        Published("arc-easy", tasks.arc, 0.25),
        Published("arc-challenge", tasks.arc, 0.25),
        Published("mmlu", tasks.mmlu, 0.25),
        Published("gsm8k", tasks.gsm8k, 0.0, tasks.has_right_number),
        Published("humaneval", tasks.human_eval, 0.0, tasks.human_eval_program, runs_programs=True),
        Published("spelling-bee", tasks.spelling_bee, 0.0, tasks.has_right_number),
        Published("smoltalk", tasks.smoltalk, None, in_chat_core=False),
        Published("speech", speech.sounds, None, in_chat_core=False),
    )
}
"""All benchmarks besides CORE. The contract has their names too (`halcyon_api.result_documents.TASK_NAMES`)."""


def read_benchmarks(files: Mapping[str, Path], most: int | None = None) -> list[Benchmark]:
    """The benchmarks of some files, in their order; ``core`` becomes the benchmarks of its bundle.

    Args:
        files: A file or a folder for each name.
        most: Only this number of examples of each. None: all.

    Raises:
        BadConfiguration: There is no such benchmark, a row is bad, or a benchmark runs programs and this machine cannot
            run them safely.
        OSError: A file cannot be read.
    """
    benchmarks: list[Benchmark] = []
    for name, path in files.items():
        if name == CORE:
            benchmarks += [
                Benchmark(f"{CORE_PREFIX}{task.name}", task.baseline, core.read_examples(task, most))
                for task in core.read_bundle(path)
            ]
        elif name in BENCHMARKS:
            benchmarks.append(BENCHMARKS[name].read(path, most))
        else:
            raise BadConfiguration(f"there is no task {name!r}; the tasks are {', '.join(BENCHMARKS)}")
    if any(benchmark.runs_programs for benchmark in benchmarks):
        check()
    return benchmarks


def read_of_document(tasks: TasksSpec) -> list[Benchmark]:
    """The benchmarks of ``spec.trainer.evaluation.tasks``, CORE last: the members of a document have no order. See
    `read_benchmarks`.

    Raises:
        BadConfiguration: As there, or a file is missing; the message names the field.
    """
    benchmarks: list[Benchmark] = []
    files = tasks.files
    for name in sorted(files, key=lambda name: [*BENCHMARKS, name].index(name)):
        path = user_path(files[name].removeprefix("file://"))
        field = f"spec.trainer.evaluation.tasks.files.{name}"
        try:
            benchmarks += read_benchmarks({name: path}, tasks.most)
        except OSError as error:
            raise BadConfiguration(f"{field}: {path}: {error.strerror}; give its file or folder") from None
        except BadConfiguration as error:
            raise BadConfiguration(f"{field}: {error}") from None
    return benchmarks


def fingerprint(benchmarks: Iterable[Benchmark]) -> str:
    """SHA-256 (hex) of all examples."""
    digest = hashlib.sha256()
    for benchmark in benchmarks:
        digest.update(f"{benchmark.name}\n".encode())
        for example in benchmark.examples:
            digest.update(repr(example).encode(errors="surrogatepass"))
    return digest.hexdigest()
