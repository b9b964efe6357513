"""The reasons that the operator gives to users in one word. The code can use no other ones, and a test compares the reference with them."""

from __future__ import annotations

from typing import Literal, get_args

StallReason = Literal[
    "InvalidSpec",
    "NameTaken",
    "OriginUnknown",
    "AwaitedRunFailed",
    "AwaitedRunCycle",
    "KueueMissing",
    "QueueRefused",
    "QueueDeactivated",
    "CheckpointRootTaken",
    "BadConfiguration",
    "RunChanged",
    "NoValidCheckpoint",
    "Fenced",
    "Diverged",
    "EndedEarly",
    "RestartsExhausted",
    "TrainerStopped",
    "AttemptsExhausted",
]
"""Why nothing happens until a user acts: the reason of the condition `Stalled`, and of the event about it."""

EndReason = Literal[
    "Preempted",
    "QueueEvicted",
    "TrainerFailed",
    "TrainerHung",
    "PodDeleted",
    "NoRoom",
    "JobSetDeleted",
    "Fenced",
    "TrainerStopped",
]
"""The reason of the event about the end of a process group."""

ChangeReason = Literal[
    "AttemptStarted",
    "Resumed",
    "Succeeded",
    "Suspended",
    "Expired",
    "DefaultsTaken",
    "EditApplied",
    "EditPending",
    "EditWithdrawn",
    "RestartPending",
    "Restarted",
    "RestartPassedOver",
    "CheckpointSaved",
    "SaveNotAsked",
    "CheckpointFailed",
    "CheckpointFallback",
    "HeadRebuilt",
    "MaintenanceNotice",
    "NodeAvoided",
    "NodesTakenBack",
    "Shrinking",
    "RoomFound",
    "Growing",
    "ProbeRefused",
    "PodForceDeleted",
    "PodHeld",
    "Queued",
    "Admitted",
    "ReconcileFailed",
]
"""The reason of an event about any other change."""

EventReason = Literal[StallReason, EndReason, ChangeReason]
"""The reason of an event."""

_STALLS: tuple[StallReason, ...] = get_args(StallReason)


def stall_reason(reason: str) -> StallReason | Literal[""]:
    """A reason that is read from a status as a `StallReason`; empty: it is none."""
    for one in _STALLS:
        if one == reason:
            return one
    return ""
