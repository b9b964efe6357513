"""What is known of the checkpoint root: its newest checkpoint, its owner, and the attempt that owns it.

The root's HEAD is the truth. Where the operator cannot read it, the trainers' word has to do, and the status says so
(`status.checkpoint.source`). A checkpoint once known is never forgotten because HEAD is gone: the next attempt is told to find it, and the
trainer then refuses to begin again from step 0.
"""

from __future__ import annotations

from datetime import datetime

from halcyon_api.checkpoint_documents import CommittedStep, Owner
from halcyon_api.progress import CheckpointProgress
from halcyon_api.status import RunCheckpoint, TrainingRunStatus
from halcyon_operator.plain import moment, stamp, text
from halcyon_operator.views import HeadFound, HeadUnreachable, Observed

_LARGEST = 2**53
"""Largest whole number that every JSON reader keeps exactly."""


def with_checkpoint(observed: Observed, now: datetime) -> TrainingRunStatus:
    """The run's status with the newest checkpoint, and with the highest attempt that owned the root."""
    status = observed.run.status
    head = observed.head
    if isinstance(head, HeadFound):
        if foreign_owner(observed) is not None:
            return status
        newest = head.head.newest
        update: dict[str, object] = {"root_attempt": max(status.root_attempt, min(head.head.epoch.attempt, _LARGEST))}
        if newest is not None:
            update["checkpoint"] = _from_root(newest, now)
        return status.model_copy(update=update)
    if isinstance(head, HeadUnreachable) and observed.report is not None and observed.report.checkpoint is not None:
        told = _from_trainer(observed.report.checkpoint, now)
        if status.checkpoint is None or told.step >= status.checkpoint.step:
            return status.model_copy(update={"checkpoint": told})
    return status


def foreign_owner(observed: Observed) -> Owner | None:
    """Whose the root is, when it is another run's."""
    if not isinstance(observed.head, HeadFound):
        return None
    owner = observed.head.head.owner
    mine = Owner(namespace=observed.run.namespace, name=observed.run.name)
    return None if owner.same_run(mine) else owner


def resume_step(status: TrainingRunStatus) -> int:
    """Committed steps that the next attempt must find."""
    return status.checkpoint.step if status.checkpoint is not None else 0


def _from_root(step: CommittedStep, now: datetime) -> RunCheckpoint:
    return RunCheckpoint(
        step=min(step.step, _LARGEST),
        attempt=min(step.epoch.attempt, _LARGEST),
        path=text(step.path),
        time=_time(step.time, now),
        size_bytes=min(step.size_bytes, _LARGEST),
        source="root",
    )


def _from_trainer(told: CheckpointProgress, now: datetime) -> RunCheckpoint:
    return RunCheckpoint(
        step=min(told.step, _LARGEST),
        attempt=min(told.attempt, _LARGEST),
        path=text(told.path),
        time=_time(told.time, now),
        size_bytes=None if told.size_bytes is None else min(told.size_bytes, _LARGEST),
        source="trainer",
    )


def _time(said: str, now: datetime) -> str:
    return stamp(moment(said) or now)
