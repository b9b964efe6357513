"""The results of evaluations below a root, written after each task or source, so that a restart repeats none.

``ROOT/tasks/STEP.json`` has the results of tasks on the model of one step. A training and a run of task ``evaluate``
write ``STEP.json``; ``halcyon eval --keep`` writes ``STEP.eval.json``. Tasks are run by `halcyon.evals`; the guide is
``docs/guides/evaluation.md``. ``ROOT/evaluation.json`` has the results of a run of task ``evaluate`` by source.
"""

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, StringConstraints

from halcyon_api.base import AtLeastOne, RunName, Timestamp
from halcyon_api.checkpoint_documents import CommittedStep, Document, Owner, Sha256
from halcyon_api.spec.sources import SourceName

TASKS_PREFIX = "tasks/"
"""Where a root keeps the results of tasks."""
TASK_NAMES = ("arc-easy", "arc-challenge", "mmlu", "gsm8k", "humaneval", "spelling-bee", "smoltalk", "speech")
"""The tasks of a document, besides CORE."""
CORE, CHAT_CORE = "core", "chat-core"
"""The averages of centred accuracies, and the name of CORE's bundle among the files of tasks."""
REPORTED_TASKS = frozenset({*TASK_NAMES, CORE, CHAT_CORE})
"""Names under which a trainer reports numbers."""
CORE_TASKS = 22
"""Tasks of the published bundle of CORE."""
CORE_PREFIX = "core/"
"""Before the name of a task of CORE."""
SAMPLES = 3
"""Answers of each task that are kept."""

_KEY = re.compile(r"tasks/(\d{12})(\.eval)?\.json")
Text = Annotated[str, StringConstraints(max_length=4096)]


def core_title(tasks: int) -> str:
    """The name of a mean over this number of tasks of CORE. Only the mean over all of them is CORE."""
    return "CORE" if tasks == CORE_TASKS else f"CORE of {tasks} of {CORE_TASKS} tasks"


def task_title(name: str, tasks: int | None) -> str:
    """The name of a task or of an average for readers.

    Args:
        name: Its name in the event ``task``.
        tasks: The number of tasks in the average `core`.
    """
    return core_title(tasks or 0) if name == CORE else "ChatCORE" if name == CHAT_CORE else name


def results_key(step: int, *, of_command: bool = False) -> str:
    """Key of the results on the model of a step.

    Args:
        step: Steps done.
        of_command: Whether ``halcyon eval`` writes them, not a run.
    """
    return f"{TASKS_PREFIX}{step:012d}{'.eval' if of_command else ''}.json"


def results_step(key: str) -> int | None:
    """The step of a key; None if it names no results of tasks."""
    found = _KEY.fullmatch(key)
    return None if found is None else int(found[1])


class TaskNumbers(Document):
    """The result of a task."""

    task: Annotated[str, StringConstraints(max_length=256)]
    """Its name; of a task of CORE, `core/` and its label."""
    examples: AtLeastOne
    """Number of examples."""
    accuracy: float | None = None
    """Mean share of right answers; None: the task has no right answers."""
    standard_error: float | None = None
    """Of the accuracy."""
    baseline: float | None = None
    """Accuracy of random answers."""
    centred: float | None = None
    """(accuracy - baseline) / (1 - baseline)."""
    bits_per_byte: float | None = None
    """Of given answers."""
    word_error_rate: float | None = None
    """Words that are heard wrong, for each word that is said."""
    answers: AtLeastOne = 1
    """Answers to each question."""
    pass_at: dict[str, float] = Field(default={})
    """Estimate of pass@k by k, of several answers."""
    groups: dict[str, float] = Field(default={})
    """Accuracy of each part of the task."""
    seconds: NonNegativeFloat = 0.0
    """Duration."""


class AnswerSample(Document):
    """An answer that is kept for readers."""

    task: str
    """Name of the task."""
    example: Text
    """Name of the example."""
    prompt: Text
    """The question, or what is said; long ones are cut."""
    answer: Text
    """What the model answered or heard, or the choice that it found the most likely."""
    right: bool | None = None
    """Whether it is right."""


class TaskResults(Document):
    """Results of the tasks that are done so far on one model."""

    format_version: Literal[1] = 1
    step: NonNegativeInt
    """Steps done of the model's run."""
    prompts: Literal["plain", "chat"]
    """Whether the model was asked in plain text or in conversations."""
    decides: Sha256 | None = None
    """Hash of the model and the settings of a run; None: of the command."""
    tasks: tuple[TaskNumbers, ...] = ()
    """Tasks that are done."""
    core: float | None = None
    """CORE: the mean of its tasks' centred accuracies."""
    chat_core: float | None = None
    """ChatCORE: the same of the tasks for conversations."""
    samples: tuple[AnswerSample, ...] = Field(default=(), description=f"The first {SAMPLES} answers of each task.")
    finished: bool = False
    """Whether all tasks are done."""
    time: Timestamp
    """When the document was written."""

    @property
    def core_tasks(self) -> int:
        """Number of tasks in `core`."""
        return sum(one.task.startswith(CORE_PREFIX) for one in self.tasks)

    @property
    def averages(self) -> dict[str, tuple[float, int | None]]:
        """The averages that are known by name, each with its number of tasks if that varies."""
        found = ((CORE, self.core, self.core_tasks), (CHAT_CORE, self.chat_core, None))
        return {name: (value, tasks) for name, value, tasks in found if value is not None}

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers that a trainer reports, by name: accuracies, for tasks without them bits per byte or word error
        rates, and the averages.

        A mean over some tasks of CORE is not among them: nobody may read it as CORE.
        """
        found = {
            one.task: next((n for n in (one.accuracy, one.bits_per_byte, one.word_error_rate) if n is not None), None)
            for one in self.tasks
        }
        found |= {CORE: self.core if self.core_tasks == CORE_TASKS else None, CHAT_CORE: self.chat_core}
        return {name: value for name, value in found.items() if value is not None and name in REPORTED_TASKS}


EVALUATION_KEY = "evaluation.json"

Number = Annotated[str, StringConstraints(pattern=r"^(-?[0-9].*|-?inf|nan)$", max_length=32)]
"""A float as Python's ``repr``: reading it gives the same bits. It may be inf or nan."""


class SourceSums(Document):
    """Result of the evaluation on the held-out part of one source."""

    source: SourceName
    nats: Number
    """Weighted sum of losses."""
    weight: Number
    """Sum of weights."""
    size_bytes: NonNegativeInt
    """Bytes of text of the predicted tokens."""
    sequences: NonNegativeInt
    seconds: NonNegativeFloat
    """Duration of the evaluation."""
    loss: float | None = None
    """Nats per token, for readers."""
    bits_per_byte: float | None = None
    """Bits per byte, for readers."""
    right: float | None = None
    """Texts with the right label."""


class EvaluationDocument(Document):
    """Results of one checkpoint on the sources evaluated so far."""

    format_version: Literal[1] = 1
    owner: Owner
    """The run that evaluates."""
    run: RunName
    """The run of the checkpoint."""
    root: str | None = None
    """The root of that run; None: not recorded."""
    checkpoint: CommittedStep
    """The checkpoint, as that run's HEAD listed it."""
    decides: Sha256
    """Hash of everything else that determines the results."""
    sources: tuple[SourceSums, ...] = ()
    """Sources whose evaluation is complete."""
    finished: bool = False
    """Whether all sources are complete."""
    loss: float | None = None
    """Nats per token over all sources so far, for readers."""
    bits_per_byte: float | None = None
    """Bits per byte over all sources so far, for readers."""
    time: Timestamp
    """When the document was written."""
