"""What is recorded of the run that lives through everything, stage by stage: the tests look at nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from halcyon_api.checkpoint_documents import CommittedStep, Head
from halcyon_api.status import TrainingRunStatus
from halcyon_demo.records import LogLine
from halcyon_demo.recovery import Recovery


@dataclass(frozen=True)
class Began:
    """The tokens' run when it is over, and the run when it trains.

    Attributes:
        tokens: The status of the run that built the tokens.
        built: What the log of that run says of its finished token caches.
        built_again: The same of the run that trains on them.
        status, top: What the commands print of the run.
        saved: What the command `checkpoint` prints.
        page: The metrics of the trainer's first process.
        steps: Steps done before the page was read, and after that, by the times in the log.
        drift: What git differs in.
    """

    tokens: TrainingRunStatus
    built: tuple[LogLine, ...]
    built_again: tuple[LogLine, ...]
    status: str
    top: str
    saved: str
    page: str
    steps: tuple[int, int]
    drift: str


@dataclass(frozen=True)
class Recovered:
    """A fault and what followed.

    Attributes:
        step: Steps done when the fault was made.
        committed: Step of the newest checkpoint that the log knew of then.
        recovery: What followed.
    """

    step: int
    committed: int
    recovery: Recovery


@dataclass(frozen=True)
class Edited:
    """An edit while the run trains.

    Attributes:
        said: What `diff` printed about it beforehand.
        status: The run's status when the new attempt trained.
    """

    said: str
    status: TrainingRunStatus


@dataclass(frozen=True)
class Suspended:
    """The run at rest.

    Attributes:
        said: What `suspend --wait` printed.
        status: The run's status.
        page: The operator's metrics.
        refused: What the command `checkpoint` printed.
        same, frozen, invalid, ending: What `diff` printed about the document as it is, about an edit that is frozen, about one that is not
            valid, and about the new number of steps.
        drift: What git differs in.
        damaged, older: The newest checkpoint, of which a bit was flipped after all that, and the one before.
        steps: The end that the run is given.
    """

    said: str
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
        followed: What `logs --follow --raw` printed, begun before the last processes were.
        report: What `report --json` printed.
        shown: What `report` printed.
        over: What `diff` prints about an edit of a run that is over.
        drift: What git differs in.
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
    """A run beside the life that has succeeded."""

    status: TrainingRunStatus
    lines: tuple[LogLine, ...]


@dataclass(frozen=True)
class Cloned(Finished):
    """A run from one of the checkpoints of the life.

    Attributes:
        earlier: The checkpoint's step.
        kept: The life's HEAD after the life was deleted, while the clone trained.
    """

    earlier: int
    kept: bytes


@dataclass(frozen=True)
class Evaluated(Finished):
    """The life's last checkpoint evaluated; `kept` is the document in the root of the evaluation."""

    kept: dict[str, Any]


@dataclass(frozen=True)
class Stopped:
    """A run that cannot go on.

    Attributes:
        complaint: Why, by its status.
        stalled: Whether the condition Stalled is True.
        before, after: The HEAD of the root, before the run began or went on, and after it had stopped.
        steps: Steps that its last processes wrote.
    """

    complaint: str
    stalled: bool
    before: Head
    after: Head
    steps: int
