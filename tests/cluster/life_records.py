"""The records of each stage of the run `life`. The tests read nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from halcyon_api.checkpoint_documents import CommittedStep, Head
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_demo.records import LogLine
from halcyon_demo.recovery import Recovery


@dataclass(frozen=True)
class Began:
    """The data run when it has ended, and `life` when it trains.

    Attributes:
        tokens: The status of the run that built the tokens.
        built: Log lines of that run about its finished token caches.
        built_again: The same lines of `life`, which trains on them.
        status: Output of the command `status`.
        saved: Output of the command `checkpoint`.
        page: The metrics of the trainer's first process.
        steps: Steps done before and after the page was read, by the times in the log.
        drift: Output of `kubectl diff` with the document in git.
    """

    tokens: TrainingRunStatus
    built: tuple[LogLine, ...]
    built_again: tuple[LogLine, ...]
    status: str
    saved: str
    page: str
    steps: tuple[int, int]
    drift: str


@dataclass(frozen=True)
class Recovered:
    """A fault and the recovery.

    Attributes:
        step: Steps done when the fault was made.
        committed: Step of the newest checkpoint in the log at that time.
        recovery: The recovery from the fault.
    """

    step: int
    committed: int
    recovery: Recovery


@dataclass(frozen=True)
class Edited:
    """An edit while the run trains.

    Attributes:
        output: Output of `diff` before the edit.
        status: The run's status when the new attempt trained.
    """

    output: str
    status: TrainingRunStatus


@dataclass(frozen=True)
class Suspended:
    """The suspended run.

    Attributes:
        output: Output of `suspend --wait`.
        status: The run's status.
        page: The operator's metrics.
        refused: Output of the command `checkpoint`.
        same, frozen, invalid, ending: Output of `diff` for the unchanged document, for an edit of a frozen field, for
            an invalid document, and for the final number of steps.
        drift: Output of `kubectl diff` with the document in git.
        damaged, older: The newest checkpoint, in which a bit was flipped after all that, and the one before.
        steps: The final number of steps.
    """

    output: str
    status: TrainingRunStatus
    page: str
    refused: str
    same: str
    frozen: str
    invalid: str
    ending: str
    drift: str
    damaged: CommittedStep
    older: CommittedStep
    steps: int


@dataclass(frozen=True)
class Ended:
    """The run when it has succeeded.

    Attributes:
        status: Its status.
        lines: Its whole log.
        followed: Output of `logs --follow --raw`, started before the last process group.
        report: Output of `report --json`.
        shown: Output of `report`.
        over: Output of `diff` for an edit of a finished run.
        drift: Output of `kubectl diff` with the document in git.
        restricted: The pod security profile that the namespace of the pods enforces.
    """

    status: TrainingRunStatus
    lines: tuple[LogLine, ...]
    followed: str
    report: dict[str, Any]
    shown: str
    over: str
    drift: str
    restricted: str


@dataclass(frozen=True)
class Finished:
    """A run beside `life` that has succeeded."""

    status: TrainingRunStatus
    lines: tuple[LogLine, ...]


@dataclass(frozen=True)
class Cloned(Finished):
    """A run that starts from a checkpoint of `life`.

    Attributes:
        earlier: The checkpoint's step.
        kept: The HEAD of `life` after `life` was deleted, while the clone trained.
    """

    earlier: int
    kept: bytes


@dataclass(frozen=True)
class Evaluated(Finished):
    """The evaluation of the last checkpoint of `life`; `kept` is the document in the root of the evaluation."""

    kept: dict[str, Any]


@dataclass(frozen=True)
class Stopped:
    """A run that cannot train.

    Attributes:
        stop_reason: The reason in its status.
        stalled: Whether the condition Stalled is True.
        before, after: The HEAD of the root, before the run started and after it had stopped.
        steps: Steps in the log of its last process group.
    """

    stop_reason: str
    stalled: bool
    before: Head
    after: Head
    steps: int
