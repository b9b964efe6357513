"""The tasks by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from halcyon.errors import BadConfiguration
from halcyon.evals import arc, gsm8k, human_eval, mmlu, smoltalk, spelling_bee
from halcyon.evals.example import Example, Question
from halcyon.evals.rows import Row, read_rows
from halcyon.evals.sandbox.running import Program


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: Its name.
        title: What it measures, in a few words.
        files: The files that it is published in.
        examples: The examples of the rows of a file. It raises `BadConfiguration` for a bad row.
        baseline: Accuracy of random answers. None: the task has no accuracy.
        grade: For questions: whether a text is right, or the program that decides it.
        max_tokens: Most tokens of an answer, calls of the calculator included.
        runs_programs: Whether answers are run in the sandbox.
        in_chat_core: Whether it belongs to ChatCORE.
    """

    name: str
    title: str
    files: str
    examples: Callable[[Iterable[Row]], Iterator[Example]]
    baseline: float | None
    grade: Callable[[Question, str], bool | Program] | None = None
    max_tokens: int = 512
    runs_programs: bool = False
    in_chat_core: bool = True

    def read(self, path: Path, most: int | None = None) -> list[Example]:
        """The examples of a file or folder.

        Args:
            path: The file or folder.
            most: Only this number of examples, from the first on. None: all.

        Raises:
            BadConfiguration: A row is bad, or there is none.
        """
        found: list[Example] = []
        for example in self.examples(read_rows(path)):
            if most is not None and len(found) == most:
                break
            found.append(example)
        if not found:
            raise BadConfiguration(f"{path}: the file has no example of {self.name}")
        return found


_ARC = "JSON lines of its authors, or Parquet of allenai/ai2_arc"
TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("arc-easy", "science at school, easy: multiple choice", _ARC, arc.examples, 0.25),
        Task("arc-challenge", "science at school, hard: multiple choice", _ARC, arc.examples, 0.25),
        Task("mmlu", "57 subjects: multiple choice", "CSV files of its authors, or Parquet of cais/mmlu", mmlu.examples, 0.25),
        Task(
            "gsm8k",
            "word problems, with a calculator",
            "JSON lines of its authors, or Parquet of openai/gsm8k",
            gsm8k.examples,
            0.0,
            gsm8k.grade,
        ),
        Task(
            "humaneval",
            "functions in Python that tests check",
            "HumanEval.jsonl.gz, or Parquet of openai/openai_humaneval",
            human_eval.examples,
            0.0,
            human_eval.grade,
            runs_programs=True,
        ),
        Task(
            "spelling-bee",
            "letters in words, with a calculator",
            "a list of words (.txt), from which the examples are generated",
            spelling_bee.examples,
            0.0,
            spelling_bee.grade,
        ),
        Task(
            "smoltalk",
            "how likely the last answers of conversations are",
            "Parquet of HuggingFaceTB/smol-smoltalk, or JSON lines",
            smoltalk.examples,
            None,
            in_chat_core=False,
        ),
    )
}
"""All tasks."""


def task_named(name: str) -> Task:
    """The task with a name.

    Raises:
        BadConfiguration: There is none.
    """
    if name not in TASKS:
        raise BadConfiguration(f"there is no task {name!r}; the tasks are {', '.join(TASKS)}")
    return TASKS[name]
