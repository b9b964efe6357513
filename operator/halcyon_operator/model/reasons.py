"""The reasons that the operator gives to users in one word: those of this file, and those of the rows in
`halcyon_api.ends`.

The type checker rejects every other one, and a test compares the reference with them."""

from typing import Literal, get_args

from halcyon_api.ends import HELD, EndCause, EndReason
from halcyon_api.status.run_status import Phase

OwnStallReason = Literal[
    "InvalidSpec",
    "NameTaken",
    "OriginUnknown",
    "AwaitedRunFailed",
    "AwaitedRunCycle",
    "KueueMissing",
    "QueueRefused",
    "QueueDeactivated",
    "CheckpointRootTaken",
    "RestartsExhausted",
    "AttemptsExhausted",
    "DoesNotFit",
    "PlanFailed",
    "ReconcileFailed",
]
"""Why nothing happens until a user acts, for another reason than the cause of the last end alone."""

StallReason = OwnStallReason | EndReason
"""Why nothing happens until a user acts: the reason of the condition `Stalled`, and of the event about it."""

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
    "BudgetNearlySpent",
    "CheckpointFailed",
    "CheckpointFallback",
    "HeadRebuilt",
    "MaintenanceNotice",
    "NodeAvoided",
    "NodesTakenBack",
    "SlowProcess",
    "Shrinking",
    "PlaceChanged",
    "RoomFound",
    "Growing",
    "ProbeRefused",
    "GuardRefused",
    "PodForceDeleted",
    "PodHeld",
    "ConfigMapDeleted",
    "Queued",
    "Admitted",
]
"""The reason of an event about any other change."""

StartReason = Literal[
    "ImagePullFailed",
    "ContainerConfigInvalid",
    "Unschedulable",
    "AwaitsRun",
    "ReadingCheckpointRoot",
    "RestartsWithoutCheckpoint",
    "PodStuckTerminating",
    "PodsNotStarting",
    "PodsRefused",
    "PodHeld",
    "JobSetControllerSilent",
    "CreateRefused",
    "Planning",
    "JobSetSuspended",
    "QueueEvicted",
]
"""Why a run does not start yet; it goes on by itself once the cause is removed."""

QueueReason = Literal[
    "Admitted",
    "WaitingForQuota",
    "WaitingForAdmissionCheck",
    "WaitingToRequeue",
    "WaitingForKueue",
    "QueueInadmissible",
]
"""Why a run is queued."""

RunReason = (
    Phase
    | StartReason
    | QueueReason
    | StallReason
    | Literal["EditPending", "RestartPending", "CheckpointsFailing", "BudgetSpent"]
)
"""The reason of the condition `Ready`: the phase itself if there is no other one."""

EventReason = StallReason | ChangeReason
"""The reason of an event."""

_OF_ENDS = (EndReason(cause.end.reason) for cause in EndCause if cause.end.reason and cause not in HELD)

STALL_REASONS: tuple[StallReason, ...] = tuple(dict.fromkeys((*get_args(OwnStallReason), *_OF_ENDS)))


def stall_reason(reason: str) -> StallReason | Literal[""]:
    """A reason that is read from a status as a `StallReason`; empty: it is none."""
    for one in STALL_REASONS:
        if one == reason:
            return one
    return ""
