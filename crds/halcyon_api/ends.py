"""Why process groups end: one row a cause, from which every list of causes, counters, exit codes and reasons comes.

A new cause is a row here, with its exit code if the trainer reports it, and then a class in `halcyon.host.errors`. The
rest follows: the fields of `status.restarts`, the labels of metrics, the reasons of conditions and events, the alert
about delayed attempts, the failure policy of a JobSet, the decision by budget, and the tables of
docs/reference/recovery.md.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, Literal, NewType, Self

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


def _row(cause: str, end: End) -> Any:
    """The value of a member. Its type is hidden, because it is not the type of the member."""
    return cause, end


class EndCause(StrEnum):
    """Why a process group ended, as written in the history."""

    end: End

    def __new__(cls, cause: str, end: End) -> Self:
        """A member that is its cause as text, with its row."""
        member = str.__new__(cls, cause)
        member._value_ = cause
        member.end = end
        return member

    PREEMPTED = _row(
        "preempted",
        End(
            "free",
            "An eviction, a preemption, a lost node, an exit after a notice, or a JobSet that a user suspended.",
            ExitCode.PREEMPTED,
            "Preempted",
            evicted=True,
        ),
    )
    QUEUE_EVICTED = _row(
        "queueEvicted",
        End(
            "free",
            "The queue took its quota back: for another run, by `waitForPodsReady`, or because it was stopped.",
            event="QueueEvicted",
        ),
    )
    FAILED = _row(
        "failed", End("failure", "A crash: any end that no other cause describes.", ExitCode.FAILURE, "TrainerFailed")
    )
    EVICTED = _row(
        "evicted",
        End(
            "failure",
            "The node evicted a pod, for example because it used more memory or disk than it may.",
            event="TrainerFailed",
            counter="failed",
        ),
    )
    HUNG = _row(
        "hung",
        End(
            "failure",
            "No step ended within the time limit that follows from the run's own steps.",
            ExitCode.FAILURE,
            "TrainerHung",
        ),
    )
    CORRUPTED = _row(
        "corrupted",
        End(
            "failure",
            "An audit found wrong numbers (`spec.recovery.audit`).",
            ExitCode.CORRUPTED,
            "CorruptionSuspected",
        ),
    )
    NOT_REJOINED = _row(
        "notRejoined",
        End(
            "free",
            "A lost pod did not come back in time, or a restart in place failed, so all pods were replaced.",
            ExitCode.NOT_REJOINED,
            counter="preempted",
            evicted=True,
        ),
    )
    POD_DELETED = _row("podDeleted", End("free", "A user deleted a pod.", event="PodDeleted", evicted=True))
    REJECTED = _row(
        "rejected",
        End(
            "free",
            "A node rejected a pod or could not start it.",
            event="PodsRejected",
            reason="PodsRejected",
            fix="check the node in the message: the run does not crash, its processes never began",
        ),
    )
    NO_ROOM = _row(
        "noRoom",
        End(
            "free",
            "Processes waited half an hour for others whose pods had no node, and ended.",
            event="NoRoom",
            evicted=True,
        ),
    )
    JOB_SET_DELETED = _row("jobSetDeleted", End("free", "A user deleted the JobSet.", event="JobSetDeleted"))
    SPEC_CHANGED = _row("specChanged", End("operator", "The spec was edited.", by_user=True))
    REQUESTED = _row(
        "requested", End("operator", "The annotation `halcyon.dev/restart` requested a restart.", by_user=True)
    )
    SUSPENDED = _row("suspended", End("other", "The run was suspended, and resumed.", counter="resumed", by_user=True))
    FENCED = _row(
        "fenced",
        End(
            "other",
            "A newer start of the run owns the checkpoint root. Three in a row without a step stop the run.",
            ExitCode.FENCED,
            "Fenced",
            reason="Fenced",
            fix="find the other writer, then restart the run",
        ),
    )
    RESIZED = _row("resized", End("operator", "The run went on with fewer or more slices (`spec.recovery.elastic`)."))
    MOVED = _row(
        "moved",
        End(
            "operator",
            "A run or pod was moved off a bad node, or allowed on all nodes again (`spec.recovery.badNodes`), or a run "
            "to another row of hardware (`spec.place`).",
        ),
    )
    HELD_BACK = _row(
        "heldBack",
        End(
            "operator",
            "Free ends in a row brought no checkpoint, so the operator delays the next attempt.",
        ),
    )
    ROOT_UNUSABLE = _row(
        "rootUnusable",
        End(
            "store",
            "The store of the checkpoint root denied access, did not answer, or cannot be used.",
            ExitCode.ROOT_UNUSABLE,
            reason="CheckpointRootUnusable",
            fix="check the store and the run's credentials, as the message says: the trainer could not use the "
            "checkpoint root",
        ),
    )
    DATA_UNREACHABLE = _row(
        "dataUnreachable",
        End(
            "store",
            "The store of a source, of the tokenizer or of the token caches denied access or did not answer.",
            ExitCode.DATA_UNREACHABLE,
            reason="DataUnreachable",
            fix="check the store of the source, tokenizer or token caches in the message",
        ),
    )
    UNKNOWN = _row(
        "unknown",
        End(
            "other",
            "The trainer exited with a code that forbids a restart, and no report has the reason.",
            reason="TrainerStopped",
            fix="read the logs of the pods, then edit the spec",
        ),
    )
    COMPLETED = _row(
        "completed",
        # Another group follows only if the user sets more steps.
        End("other", "All steps are done, and the last checkpoint is committed.", ExitCode.DONE, counter="specChanged"),
    )
    BAD_CONFIGURATION = (
        "badConfiguration",
        End(
            "final",
            "The trainer found an error that no schema can find: a path without files, devices that do not fit.",
            ExitCode.BAD_CONFIGURATION,
            reason="BadConfiguration",
            fix="fix it, then edit the spec",
        ),
    )
    NO_VALID_CHECKPOINT = (
        "noValidCheckpoint",
        End(
            "final",
            "The root should have a checkpoint, and none verifies. A run never starts again from step 0 silently.",
            ExitCode.NO_VALID_CHECKPOINT,
            reason="NoValidCheckpoint",
            fix="inspect the root, then restart the run",
        ),
    )
    RUN_CHANGED = (
        "runChanged",
        End(
            "final",
            "Model, data, tokenizer or optimizer differ from those of the checkpoint.",
            ExitCode.RUN_CHANGED,
            reason="RunChanged",
            fix="these fields are frozen: create the run again without the change, or the changed run with another "
            "root",
        ),
    )
    ROOT_TAKEN = (
        "rootTaken",
        End(
            "final",
            "The root has the checkpoints of another run.",
            ExitCode.ROOT_TAKEN,
            reason="CheckpointRootTaken",
            fix="create the run again with another root",
        ),
    )
    DIVERGED = (
        "diverged",
        End(
            "final",
            "Loss or gradient is not finite, or the loss jumped, and `spec.recovery.divergence` is to stop.",
            ExitCode.DIVERGED,
            reason="Diverged",
            fix="check the loss and the data, then edit the spec",
        ),
    )
    REPLAY_DIFFERS = (
        "replayDiffers",
        End(
            "final",
            "A run of task `replay` has found numbers that are not those of the other run.",
            ExitCode.REPLAY_DIFFERS,
            reason="ReplayDiffers",
            fix="read which step differs first, and replay it on other hardware",
        ),
    )
    ENDED_EARLY = (
        "endedEarly",
        End(
            "final",
            "All processes ended with exit code 0, and HEAD (a report, where HEAD cannot be read) lacks the last step.",
            reason="EndedEarly",
            fix="read the logs of the pods: the program in the image may end by itself, or at a signal; then edit the "
            "spec",
        ),
    )

    @property
    def counter(self) -> str:
        """The field of `status.restarts` that counts restarts after this cause."""
        return self.end.counter or ("specChanged" if self.end.budget == "final" else self.value)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a trainer with this cause."""
        return ExitCode.FAILURE if self.end.exit_code is None else self.end.exit_code


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
