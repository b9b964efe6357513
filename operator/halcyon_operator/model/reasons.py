"""The reasons that the operator gives to users in one word: those of this file, and those of the rows in
`halcyon_api.ends`.

The type checker rejects every other one, and a test compares the reference with them."""

from __future__ import annotations

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

STALLS: dict[OwnStallReason, tuple[str, str]] = {
    "InvalidSpec": (
        (
            "the document is not valid, this installation does not allow it, or its defaults cannot be used; a "
            "running attempt goes on until `suspend: true`"
        ),
        "edit what the message names",
    ),
    "NameTaken": (
        (
            "an object of another owner has the name of the attempt's JobSet or ConfigMap, or [a JobSet of an "
            "earlier run of this name](../design/deletion.md#a-run-that-is-deleted-without-what-it-owns) still runs"
        ),
        "delete the object; the run goes on by itself",
    ),
    "OriginUnknown": (
        (
            "`spec.from` names a run that does not exist, that failed before it had a checkpoint root, or whose "
            "volume the pods of this run do not have"
        ),
        "see the message; this run begins by itself once the other run has a root",
    ),
    "AwaitedRunFailed": (
        "the run in `spec.after` has failed",
        "fix that run; this run begins by itself when that run has succeeded",
    ),
    "AwaitedRunCycle": (
        "runs wait for one another in a cycle by `spec.after`",
        "remove `spec.after` from one of them",
    ),
    "KueueMissing": (
        "the run names a queue, and the cluster has no Kueue",
        "install Kueue, or remove `spec.scheduling.queue`",
    ),
    "QueueRefused": (
        "Kueue has finished the Workload of the run without starting it",
        (
            "fix what the message names; then edit a field [at a checkpoint](trainingrun.md#the-effect-of-an-edit),"
            " or suspend and resume the run"
        ),
    ),
    "QueueDeactivated": (
        "Kueue or a user has deactivated the Workload of the run",
        "set `spec.active` of the Workload to true, or suspend and resume the run",
    ),
    "CheckpointRootTaken": (
        "the root has the checkpoints of another run",
        "create the run again with another root",
    ),
    "RestartsExhausted": (
        "more than `spec.recovery.maxRestarts` failures in a row without a new checkpoint",
        "read the logs of the pods, fix the cause, then edit the spec",
    ),
    "DoesNotFit": (
        "`spec.plan: require`, and a step needs more memory than a device has",
        (
            "more microbatches, `remat`, more or larger devices, another mesh (`halcyon plan --search`), or a "
            "smaller model as a new run"
        ),
    ),
    "PlanFailed": (
        "`spec.plan: require`, and the planning pod failed or took too long",
        "what the message names, or `spec.plan: warn`",
    ),
    "ReconcileFailed": (
        (
            "the operator itself fails at this run; its processes train on, and `suspend: true` and a deletion have"
            " effect"
        ),
        "report the trace in the operator's log; an edit of what the message names may help",
    ),
    "AttemptsExhausted": (
        "99,999 attempts were made",
        "create a new run with another name and root",
    ),
}
"""What happened at each reason, and what to do, as the reference shows them."""

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
    "RoomFound",
    "Growing",
    "ProbeRefused",
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

_PODS_STUCK = "([runbook](../runbooks/HalcyonRunPodsStuck.md))"
STARTS: dict[StartReason, str] = {
    "ImagePullFailed": f"`spec.image` {_PODS_STUCK}",
    "ContainerConfigInvalid": "the Secrets in `spec.checkpoint.credentialsSecret` and `spec.env`",
    "Unschedulable": "whether there are nodes with this accelerator and topology",
    "AwaitsRun": "the run in `spec.after` or `spec.from` ([tasks](../guides/tasks.md))",
    "ReadingCheckpointRoot": "nothing: for a few seconds the operator reads in the checkpoint root where to continue",
    "RestartsWithoutCheckpoint": "why the run loses its nodes ([runbook](../runbooks/HalcyonRunHeldBack.md))",
    "PodStuckTerminating": f"the node of a pod that does not end {_PODS_STUCK}",
    "PodsNotStarting": f"volume, network and image of a pod that has a node {_PODS_STUCK}",
    "PodsRefused": f"the quota, policy or webhook that refuses the pods {_PODS_STUCK}",
    "JobSetControllerSilent": f"the deployment `jobset-controller-manager` {_PODS_STUCK}",
    "PodHeld": "the container that keeps a pod alive ([sidecars](../guides/cluster.md#sidecars-and-service-meshes))",
    "Planning": "nothing: a pod without accelerators [compiles the step](../guides/planning.md#in-a-cluster)",
    "CreateRefused": "quota, admission policies, webhooks of JobSet and Kueue: the message has the API server's reason",
    "JobSetSuspended": "who suspended the JobSet; the run goes on when a user resumes the JobSet",
    "QueueEvicted": "nothing: the queue took its quota back, and the processes save and exit. Then the run is `Queued`",
}
"""What to check at each reason, as the reference shows it."""

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
