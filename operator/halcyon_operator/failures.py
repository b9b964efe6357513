"""What the failure of a JobSet means: go on with a new attempt, or stop for good. Pure.

| how its last world ended | what follows |
| --- | --- |
| a reserved exit code other than "fenced" | `Stalled`, with the reason of the code |
| fenced by a higher epoch | a new attempt above it; `Stalled` after three in a row that got nowhere |
| the restarts ran out: more failures in a row without a checkpoint than `recovery.maxRestarts` | `Stalled` `RestartsExhausted` |
| the restarts ran out, but checkpoints were made, or the failures were not the trainer's | a new attempt, with the rest of the budget |
| the JobSet refused and no pod says why | `Stalled` `TrainerStopped` |

Only an edit of the spec leads out of `Stalled`; `suspend: true` and back is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from halcyon_api.status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.endings import EndCause
from halcyon_operator.history import last_entry

MAX_FENCED_IN_A_ROW = 3

_FATAL_REASONS: dict[str, str] = {
    "badConfiguration": "BadConfiguration",
    "noValidCheckpoint": "NoValidCheckpoint",
    "runChanged": "RunChanged",
    "rootTaken": "CheckpointRootTaken",
    "rootUnusable": "CheckpointRootUnusable",
    "unknown": "TrainerStopped",
}

STICKY_REASONS: frozenset[str] = frozenset({*_FATAL_REASONS.values(), "Fenced", "RestartsExhausted"})
"""Reasons that were concluded from an ended attempt: they hold until the spec is edited, whatever else is seen."""


@dataclass(frozen=True)
class Verdict:
    """What follows from the failure of a JobSet."""

    cause: EndCause
    message: str
    reason: str = ""
    """Reason of `Stalled`; empty for a new attempt."""

    @property
    def stalls(self) -> bool:
        """Whether nothing more happens by itself."""
        return bool(self.reason)


def verdict(status: TrainingRunStatus, spec: TrainingRunSpec, run_name: str) -> Verdict:
    """What follows from the failure of the present attempt's JobSet, the end of whose last world is in the history."""
    entry = last_entry(status, status.attempt)
    cause = cast("EndCause", entry.cause if entry is not None and entry.cause else "unknown")
    message = (entry.message if entry is not None else None) or "no pod was seen to end"
    if (reason := _FATAL_REASONS.get(cause)) is not None:
        return Verdict(cause, message, reason)
    if cause == "fenced":
        if _fenced_in_a_row(status) >= MAX_FENCED_IN_A_ROW:
            again = f"{MAX_FENCED_IN_A_ROW} attempts in a row lost the checkpoint root to another writer: {message}"
            return Verdict(cause, f"{again}; find the other writer, then edit the spec (suspend: true and back)", "Fenced")
        return Verdict(cause, message)
    limit = spec.recovery.max_restarts
    if status.failures_without_checkpoint > limit:
        sentence = (
            f"{status.failures_without_checkpoint} failures in a row without a new checkpoint, and recovery.maxRestarts is {limit}; "
            f"the last: {message}; look into `kubectl logs -l halcyon.dev/run={run_name}`, then edit the spec"
        )
        return Verdict(cause, sentence, "RestartsExhausted")
    return Verdict(cause, message)


def _fenced_in_a_row(status: TrainingRunStatus) -> int:
    """How many of the newest attempts were fenced before they got anywhere."""
    count = 0
    for entry in reversed(status.history):
        moved = entry.to_step is not None and entry.from_step is not None and entry.to_step > entry.from_step
        if entry.cause != "fenced" or moved:
            break
        count += 1
    return count
