"""The tasks that a document or a command names, with their examples. They are read before any model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from halcyon.errors import BadConfiguration
from halcyon.evals.core import CoreExample, CoreTask, read_bundle, read_examples
from halcyon.evals.example import Example, Question
from halcyon.evals.registry import TASKS, Task, task_named
from halcyon_api.task_results import CORE, CORE_PREFIX


@dataclass(frozen=True)
class ChosenTask:
    """A task with its examples.

    Attributes:
        task: The task.
        examples: Its examples, at least one.
    """

    task: Task
    examples: tuple[Example, ...]

    @property
    def name(self) -> str:
        """Its name in results."""
        return self.task.name

    @property
    def baseline(self) -> float | None:
        """Accuracy of random answers."""
        return self.task.baseline

    @property
    def generates(self) -> bool:
        """Whether the model writes texts, for which it needs a cache."""
        return any(isinstance(example, Question) for example in self.examples)


@dataclass(frozen=True)
class ChosenCoreTask:
    """A task of CORE with its examples; see `ChosenTask`."""

    task: CoreTask
    examples: tuple[CoreExample, ...]
    generates: bool = False

    @property
    def name(self) -> str:
        """Its name in results."""
        return f"{CORE_PREFIX}{self.task.name}"

    @property
    def baseline(self) -> float | None:
        """Accuracy of random answers."""
        return self.task.baseline


Chosen = ChosenTask | ChosenCoreTask


def read_chosen(files: Mapping[str, Path], most: int | None = None) -> list[Chosen]:
    """The tasks of some files, in their order; ``core`` becomes the tasks of its bundle.

    Args:
        files: A file or a folder for each name of a task.
        most: Only this number of examples of each. None: all.

    Raises:
        BadConfiguration: There is no such task, or a row is bad.
        OSError: A file cannot be read.
    """
    found: list[Chosen] = []
    for name, path in files.items():
        if name == CORE:
            found += [ChosenCoreTask(task, tuple(read_examples(task, most))) for task in read_bundle(path)]
        else:
            task = task_named(name)
            found.append(ChosenTask(task, tuple(task.read(path, most))))
    return found


def runs_programs(chosen: list[Chosen]) -> bool:
    """Whether a task runs programs of a model."""
    return any(isinstance(one, ChosenTask) and one.task.runs_programs for one in chosen)


def check_programs(chosen: list[Chosen]) -> None:
    """Check that this machine can run the programs of a model safely, if a task needs it.

    Raises:
        Unavailable: It cannot.
    """
    if runs_programs(chosen):
        from halcyon.evals.sandbox.running import check

        check()


def read_of_document(files: Mapping[str, str], most: int | None) -> list[Chosen]:
    """The tasks of ``spec.trainer.evaluation.tasks``, CORE last: the members of a document have no order. See `read_chosen`.

    Raises:
        BadConfiguration: A file is missing or bad; the message names the field.
        Unavailable: A task runs programs, and this machine cannot run them safely.
    """
    found: list[Chosen] = []
    for name in (*(name for name in TASKS if name in files), *(name for name in files if name not in TASKS)):
        path = files[name]
        place = Path(path.removeprefix("file://")).expanduser()
        try:
            found += read_chosen({name: place}, most)
        except OSError as error:
            raise BadConfiguration(
                f"spec.trainer.evaluation.tasks.files.{name}: {place}: {error.strerror}; give its file or folder"
            ) from None
        except BadConfiguration as error:
            raise BadConfiguration(f"spec.trainer.evaluation.tasks.files.{name}: {error}") from None
    check_programs(found)
    return found


def fingerprint(chosen: list[Chosen]) -> str:
    """SHA-256 (hex) of all examples."""
    found = hashlib.sha256()
    for one in chosen:
        found.update(f"{one.name}\n".encode())
        for example in one.examples:
            found.update(repr(example).encode(errors="surrogatepass"))
    return found.hexdigest()
