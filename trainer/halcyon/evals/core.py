"""CORE: 22 tasks for models that were not finetuned (Li et al. 2024, "DataComp-LM", section 3.5): their examples, from
the files of the published bundle, what is scored of an example, and the mean of all tasks. Pure but for the files.

The bundle is a folder with ``core.yaml`` (the tasks), ``eval_meta_data.csv`` (accuracy of random answers) and
``eval_data`` (JSON lines). Each task shows some solved examples before the question. There are three kinds:

- ``multiple_choice``: answers that continue a question. The one with the least loss for each token is chosen.
- ``schema``: several contexts with the same continuation. The context under which it has the least loss for each token
  is chosen.
- ``language_modeling``: a continuation. Each of its tokens must be the most likely one.

Shuffling, the choice of solved examples and their text are those of the published evaluation, so numbers can be
compared.
"""

import csv
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import numpy as np
import yaml

from halcyon.evals.example import Answer, CoreExample, CoreKind
from halcyon.evals.rows import Row, read_rows
from halcyon.host.errors import BadConfiguration, first_line
from halcyon.inference.spans import Score, Span
from halcyon_api.plain_files import read_text
from halcyon_api.result_documents import CORE_PREFIX, TaskNumbers

TASKS, BASELINES, DATA = "core.yaml", "eval_meta_data.csv", "eval_data"
_ORDER_SEED, _SHOTS_SEED = 1337, 1234
_FIELDS: Mapping[CoreKind, tuple[tuple[str, ...], str | None]] = {
    "multiple_choice": (("query",), "choices"),
    "schema": (("continuation",), "context_options"),
    "language_modeling": (("context", "continuation"), None),
}
"""Fields of the rows of each kind: those that must be texts, which may be empty; and the one of the choices."""


@dataclass(frozen=True)
class CoreTask:
    """A task of the bundle.

    Attributes:
        name: Its label.
        kind: See this module.
        file: Its rows.
        shots: Solved examples before each question.
        delimiter: Text between a question and its answer.
        baseline: Accuracy of random answers.
    """

    name: str
    kind: CoreKind
    file: Path
    shots: int
    delimiter: str
    baseline: float


def read_bundle(folder: Path) -> list[CoreTask]:
    """The tasks of a bundle.

    Raises:
        BadConfiguration: A file is missing or not valid.
    """
    path = folder / TASKS
    try:
        document: Any = yaml.safe_load(read_text(path))
        baselines = _baselines(folder / BASELINES)
    except FileNotFoundError as error:
        raise BadConfiguration(
            f"{folder}: it has no file {Path(error.filename).name}; give the folder of the bundle of CORE"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path}: it is no YAML: {first_line(error)}") from None
    given = document.get("icl_tasks") if isinstance(document, dict) else None
    if not isinstance(given, list) or not given:
        raise BadConfiguration(f"{path}: it has no list icl_tasks")
    return [_task(folder, path, task, baselines) for task in given]


def read_examples(task: CoreTask, most: int | None = None) -> list[CoreExample]:
    """The examples of a task.

    Args:
        task: The task.
        most: Only this number of examples, in the order of the published evaluation. None: all.

    Raises:
        BadConfiguration: A row is bad, or there are too few.
    """
    rows = list(read_rows(task.file))
    for row in rows:
        _check(row, task.kind)
    random.Random(_ORDER_SEED).shuffle(rows)  # noqa: S311 - the order of the published evaluation
    rows = rows[:most]
    if len(rows) <= task.shots:
        raise BadConfiguration(
            f"{task.file}: {len(rows)} rows are too few for {task.shots} solved examples before each question"
        )
    return [_example(task, rows, number) for number in range(len(rows))]


def spans_of(example: CoreExample, encode: Callable[[str], np.ndarray]) -> list[Span]:
    """The scored parts of the texts of an example, as in the published evaluation.

    Args:
        example: The example.
        encode: A text's tokens after the first token of a document: int32 [tokens].
    """
    rows = [encode(text) for text in example.texts]
    shortest = min(len(row) for row in rows)
    match example.kind:
        case "multiple_choice":  # after the tokens that all texts begin with
            same = _same(rows)
            return [Span(row, max(1, min(same, shortest - 1)), example.name) for row in rows]
        case "schema":  # the tokens that all texts end with
            same = _same([row[::-1] for row in rows])
            return [Span(row, max(1, len(row) - max(1, same)), example.name) for row in rows]
        case "language_modeling":
            without, whole = rows
            return [Span(whole, max(1, min(_same([without, whole]), len(whole) - 1)), example.name)]


def answer_of(example: CoreExample, scores: Sequence[Score]) -> Answer:
    """The model's answer to an example, from the scores of its spans."""
    if example.kind == "language_modeling":
        return Answer(example.name, scores[0].is_greedy, {"logLikelihood": scores[0].log_prob})
    means = [score.per_token for score in scores]
    chosen = int(np.argmax(means))
    return Answer(
        example.name, chosen == example.gold, {"answer": chosen, "gold": example.gold, "logLikelihoodsPerToken": means}
    )


def centred(accuracy: float, baseline: float) -> float:
    """Accuracy on a scale where random answers have 0 and right ones 1 (Li et al. 2024, section 3.5)."""
    return (accuracy - baseline) / (1 - baseline)


def core_of(tasks: Iterable[TaskNumbers]) -> float | None:
    """CORE: the mean of the centred accuracies of its tasks; None without them."""
    return mean(task.centred for task in tasks if task.task.startswith(CORE_PREFIX))


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the known values; None: there is none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _same(rows: Sequence[np.ndarray]) -> int:
    """The number of tokens that all rows begin with."""
    shortest = min(len(row) for row in rows)
    first = rows[0][:shortest]
    equal = np.all([row[:shortest] == first for row in rows], axis=0)
    return shortest if equal.all() else int(np.argmin(equal))


def _example(task: CoreTask, rows: Sequence[Row], number: int) -> CoreExample:
    others = [other for other in range(len(rows)) if other != number]
    drawn = random.Random(_SHOTS_SEED + number).sample(others, task.shots) if task.shots else []  # noqa: S311 - as published
    solved = (_texts(task, rows[other].values) for other in drawn)
    before = "".join(f"{texts[gold]}\n\n" for texts, gold in solved)
    texts, gold = _texts(task, rows[number].values)
    texts = [f"{before}{text}" for text in texts]
    if task.kind == "language_modeling":
        # Spaces at the end would be part of the next token of the text with the continuation.
        texts.insert(0, texts[0].removesuffix(rows[number].values["continuation"]).strip())
    return CoreExample(rows[number].place, task.kind, tuple(texts), gold)


def _texts(task: CoreTask, row: Mapping[str, Any]) -> tuple[list[str], int]:
    """The question with each answer, and the place of the right one."""
    match task.kind:
        case "multiple_choice":
            return [f"{row['query']}{task.delimiter}{choice}" for choice in row["choices"]], row["gold"]
        case "schema":
            texts = [f"{context}{task.delimiter}{row['continuation']}" for context in row["context_options"]]
            return texts, row["gold"]
        case "language_modeling":
            return [f"{row['context'].strip()}{task.delimiter}{row['continuation']}"], 0


def _check(row: Row, kind: CoreKind) -> None:
    texts, choices = _FIELDS[kind]
    for name in texts:
        if not isinstance(row.get(name), str):
            row.bad(f"the field {name} is no text")
    if choices is not None:
        row.integer("gold", len(row.texts(choices)) - 1)


def _task(folder: Path, path: Path, given: Any, baselines: Mapping[str, float]) -> CoreTask:
    label = given.get("label") if isinstance(given, dict) else None
    if not isinstance(label, str):
        raise BadConfiguration(f"{path}: a task has no label")

    def bad(what: str) -> BadConfiguration:
        return BadConfiguration(f"{path}: the task {label} {what}")

    kind: Any = given.get("icl_task_type")
    address, shots = given.get("dataset_uri"), given.get("num_fewshot")
    delimiter = given.get("continuation_delimiter", " ")
    if kind not in get_args(CoreKind):
        raise bad(f"has icl_task_type {kind}; it can be {', '.join(get_args(CoreKind))}")
    if not isinstance(address, str) or PurePosixPath(address).is_absolute() or ".." in PurePosixPath(address).parts:
        raise bad(f"has no dataset_uri inside of {DATA}")
    if not isinstance(shots, list) or not shots or not isinstance(shots[0], int) or shots[0] < 0:
        raise bad("has no num_fewshot, a list of numbers")
    if not isinstance(delimiter, str):
        raise bad("has a continuation_delimiter that is no text")
    if label not in baselines:
        raise bad(f"has no row in {BASELINES}")
    return CoreTask(label, kind, folder / DATA / address, shots[0], delimiter, baselines[label])


def _baselines(path: Path) -> dict[str, float]:
    """Accuracy of random answers by task; the file has percents."""
    baselines: dict[str, float] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for name in ("Eval Task", "Random baseline"):
            if name not in (reader.fieldnames or ()):
                raise BadConfiguration(f"{path}: it has no column {name!r}")
        for row in reader:
            try:
                percent = float(row["Random baseline"])
            except (ValueError, TypeError):
                percent = math.nan
            if not 0 <= percent < 100:
                raise BadConfiguration(
                    f"{path}: the random baseline of {row['Eval Task']} is no number from 0 to less than 100"
                )
            baselines[row["Eval Task"]] = percent / 100
    return baselines
