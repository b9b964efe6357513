"""Why process groups end: one row a cause (``ends.yaml``), from which every list of causes, counters, exit codes and
reasons comes.

A new cause is a row there and a member here, with its exit code if the trainer reports it, and then a class in
`halcyon.host.errors`. The rest follows: the fields of `status.restarts`, the labels of metrics, the reasons of
conditions and events, the alert about delayed attempts, the failure policy of a JobSet, the decision by budget, and the
tables of docs/reference/recovery.md.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Literal, NewType

from halcyon_api.yaml_text import read_document

EndReason = NewType("EndReason", str)
"""A reason of an event or a condition that comes from a row."""

Budget = Literal["failure", "free", "operator", "store", "final", "other"]
"""The cost of an end:

- `failure`: it counts against `recovery.maxRestarts` and blames a node.
- `free`: nothing; after ten such ends in a row without a checkpoint the next attempt waits, after `rejected` from the
  second on.
- `operator`: nothing; the operator made the end itself, for a new attempt.
- `store`: a pause before the next attempt, because a store rejected a request or did not answer.
- `final`: the run stops until its spec is edited or a restart is requested.
- `other`: see the row of the decision table.
"""


class ExitCode(IntEnum):
    """Exit codes of the trainer with a meaning, which is that of their row. Every other code is a failure, also 44."""

    DONE = 0
    FAILURE = 1
    PREEMPTED = 42
    NOT_REJOINED = 43
    LEAVES_NODE = 44
    BAD_CONFIGURATION = 80
    FENCED = 81
    NO_VALID_CHECKPOINT = 82
    RUN_CHANGED = 83
    ROOT_TAKEN = 84
    ROOT_UNUSABLE = 85
    DIVERGED = 86
    DATA_UNREACHABLE = 87
    CORRUPTED = 88
    REPLAY_DIFFERS = 89


FATAL_CODES: tuple[ExitCode, ...] = tuple(code for code in ExitCode if code >= ExitCode.BAD_CONFIGURATION)
"""Codes after which a JobSet restarts nothing: the operator decides, and retries later after an unusable root or data
source.
"""


@dataclass(frozen=True)
class End:
    """The facts about one cause."""

    budget: Budget
    found: str
    """What happened, in one sentence: for the reference, and for the counter in the schema."""
    exit_code: ExitCode | None = None
    """The exit code of a trainer that reports this cause; None: no trainer does, the operator finds it."""
    event: str = "TrainerStopped"
    """Reason of the event about the end."""
    counter: str = ""
    """Field of `status.restarts` that increases when another process group follows; empty: `specChanged` after a final
    end, else the field of the same name."""
    reason: str = ""
    """Reason of the condition while the next attempt is delayed, or while the run is stopped, because of this cause."""
    fix: str = ""
    """What a user does about a run with this reason."""
    evicted: bool = False
    """Whether processes that a queue evicts may end this way."""
    by_user: bool = False
    """Whether the user asked for this end, so that the count of failures starts again at 0."""


_ROWS = read_document(Path(__file__).with_name("ends.yaml").read_text(encoding="utf-8"))


class EndCause(StrEnum):
    """Why a process group ended, as written in the history."""

    PREEMPTED = "preempted"
    QUEUE_EVICTED = "queueEvicted"
    FAILED = "failed"
    EVICTED = "evicted"
    HUNG = "hung"
    CORRUPTED = "corrupted"
    NOT_REJOINED = "notRejoined"
    POD_DELETED = "podDeleted"
    REJECTED = "rejected"
    NO_ROOM = "noRoom"
    JOB_SET_DELETED = "jobSetDeleted"
    SPEC_CHANGED = "specChanged"
    REQUESTED = "requested"
    SUSPENDED = "suspended"
    FENCED = "fenced"
    RESIZED = "resized"
    MOVED = "moved"
    HELD_BACK = "heldBack"
    ROOT_UNUSABLE = "rootUnusable"
    DATA_UNREACHABLE = "dataUnreachable"
    UNKNOWN = "unknown"
    COMPLETED = "completed"
    BAD_CONFIGURATION = "badConfiguration"
    NO_VALID_CHECKPOINT = "noValidCheckpoint"
    RUN_CHANGED = "runChanged"
    ROOT_TAKEN = "rootTaken"
    DIVERGED = "diverged"
    REPLAY_DIFFERS = "replayDiffers"
    ENDED_EARLY = "endedEarly"

    @property
    def end(self) -> End:
        """Its row."""
        return _ENDS[self]

    @property
    def counter(self) -> str:
        """The field of `status.restarts` that counts restarts after this cause."""
        return self.end.counter or ("specChanged" if self.end.budget == "final" else self.value)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a trainer with this cause."""
        return ExitCode.FAILURE if self.end.exit_code is None else self.end.exit_code


_ENDS = {
    cause: End(**_ROWS[cause] | ({"exit_code": ExitCode[code]} if (code := _ROWS[cause].get("exit_code")) else {}))
    for cause in EndCause
}
BY_EXIT_CODE: dict[int, EndCause] = {
    int(cause.end.exit_code): cause for cause in EndCause if cause.end.exit_code not in (None, ExitCode.FAILURE)
}
"""The cause that an exit code alone shows."""

COUNTERS: tuple[str, ...] = tuple(dict.fromkeys(cause.counter for cause in EndCause))
"""Fields of `status.restarts`, beside `total`."""

RESTARTS_WITHOUT_CHECKPOINT: Literal["RestartsWithoutCheckpoint"] = "RestartsWithoutCheckpoint"
"""Reason of the condition while the next attempt is delayed because free ends brought no checkpoint."""

HELD: tuple[EndCause, ...] = tuple(
    cause for cause in EndCause if cause.end.reason and cause.end.budget in ("store", "free")
)
"""Causes with a reason of their own while the next attempt is delayed."""

HELD_REASONS: tuple[str, ...] = (*(cause.end.reason for cause in HELD), RESTARTS_WITHOUT_CHECKPOINT)
"""Reasons of the condition `Degraded` while the next attempt is delayed."""


def causes_of(budget: Budget) -> tuple[EndCause, ...]:
    """All causes with the same cost."""
    return tuple(cause for cause in EndCause if cause.end.budget == budget)


def cause_named(name: str | None) -> EndCause:
    """The cause with a name from a history; a name of another version counts as unknown."""
    return next((cause for cause in EndCause if cause == name), EndCause.UNKNOWN)
