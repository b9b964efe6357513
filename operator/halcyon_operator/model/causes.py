"""Why process groups end: one row for each cause. Every list of causes comes from this table.

A cause is written into the history when a group ends. Its row has the exit code of a trainer with this cause, the counter of
`status.restarts` that increases when another group follows, the cost of the end, and the reason of the event about it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from halcyon_api.exit_codes import ExitCode
from halcyon_operator.model.reasons import EndReason

EndCause = Literal[
    "completed",
    "preempted",
    "queueEvicted",
    "failed",
    "evicted",
    "hung",
    "podDeleted",
    "noRoom",
    "badConfiguration",
    "fenced",
    "noValidCheckpoint",
    "runChanged",
    "rootTaken",
    "rootUnusable",
    "dataUnreachable",
    "diverged",
    "endedEarly",
    "jobSetDeleted",
    "specChanged",
    "requested",
    "resized",
    "moved",
    "heldBack",
    "suspended",
    "unknown",
]
"""Why a process group ended, as written in the history."""

Budget = Literal["failure", "free", "operator", "store", "final", "other"]
"""The cost of an end:

- `failure`: it counts against `recovery.maxRestarts` and blames a node.
- `free`: nothing; after ten such ends in a row without a checkpoint the next attempt waits.
- `operator`: nothing; the operator made the end itself, for a new attempt.
- `store`: a pause before the next attempt, because a store rejected a request or did not answer.
- `final`: the run stops until its spec is edited or a restart is requested.
- `other`: see the row of the decision table.
"""


@dataclass(frozen=True)
class End:
    """One cause of an end."""

    cause: EndCause
    budget: Budget
    counter: str
    """Field of `status.restarts` that increases when another process group follows."""
    event: EndReason = "TrainerStopped"
    """Reason of the event about the end."""
    exit_code: ExitCode | None = None
    """The exit code of a trainer that means this cause."""
    pause: str = ""
    """Reason of the condition while the next attempt waits because of this cause; empty: no specific reason."""
    evicted: bool = False
    """Whether processes that a queue evicts may end this way."""
    by_user: bool = False
    """Whether the user asked for this end, so that the count of failures starts again at 0."""


ENDS: dict[EndCause, End] = {
    row.cause: row
    for row in (
        End("completed", "other", "spec_changed", exit_code=ExitCode.DONE),  # another group follows only if the user sets more steps
        End("preempted", "free", "preempted", "Preempted", ExitCode.PREEMPTED, evicted=True),
        End("queueEvicted", "free", "queue_evicted", "QueueEvicted"),
        End("failed", "failure", "failed", "TrainerFailed"),
        End("evicted", "failure", "failed", "TrainerFailed"),
        End("hung", "failure", "hung", "TrainerHung"),
        End("podDeleted", "free", "pod_deleted", "PodDeleted", evicted=True),
        End("noRoom", "free", "no_room", "NoRoom", evicted=True),
        End("badConfiguration", "final", "spec_changed", exit_code=ExitCode.BAD_CONFIGURATION),
        End("fenced", "other", "fenced", "Fenced", ExitCode.FENCED),
        End("noValidCheckpoint", "final", "spec_changed", exit_code=ExitCode.NO_VALID_CHECKPOINT),
        End("runChanged", "final", "spec_changed", exit_code=ExitCode.RUN_CHANGED),
        End("rootTaken", "final", "spec_changed", exit_code=ExitCode.ROOT_TAKEN),
        End("rootUnusable", "store", "root_unusable", exit_code=ExitCode.ROOT_UNUSABLE, pause="CheckpointRootUnusable"),
        End("dataUnreachable", "store", "data_unreachable", exit_code=ExitCode.DATA_UNREACHABLE, pause="DataUnreachable"),
        End("diverged", "final", "spec_changed", exit_code=ExitCode.DIVERGED),
        End("endedEarly", "final", "spec_changed"),
        End("jobSetDeleted", "free", "job_set_deleted", "JobSetDeleted"),
        End("specChanged", "operator", "spec_changed", by_user=True),
        End("requested", "operator", "requested", by_user=True),
        End("resized", "operator", "resized"),
        End("moved", "operator", "moved"),
        End("heldBack", "operator", "held_back"),
        End("suspended", "other", "resumed", by_user=True),
        End("unknown", "other", "unknown"),
    )
}

BY_EXIT_CODE: dict[int, EndCause] = {int(row.exit_code): row.cause for row in ENDS.values() if row.exit_code is not None}


def causes_of(budget: Budget) -> tuple[EndCause, ...]:
    """All causes with the same cost."""
    return tuple(row.cause for row in ENDS.values() if row.budget == budget)


def end_of(cause: str) -> End:
    """The row of a cause from a history; a cause of another version counts as unknown."""
    return next((row for row in ENDS.values() if row.cause == cause), ENDS["unknown"])
