"""The state of the checkpoint root: its newest checkpoint, its owner, and the attempt that owns it.

They are read from the root's HEAD. If the operator cannot read it, the trainers' reports are used instead, and the
status shows it (`status.checkpoint.source`). A known checkpoint is never dropped because HEAD does not exist: the next
attempt is started with its step, and the trainer then refuses to begin again from step 0."""

import re
from collections.abc import Iterable
from datetime import datetime

from halcyon_api.checkpoint_documents import CommittedStep, Owner
from halcyon_api.status.run_status import RunCheckpoint, TrainingRunStatus
from halcyon_operator.model.history import present_group
from halcyon_operator.model.untrusted import LARGEST_EXACT, moment, stamp, text
from halcyon_operator.model.views import HeadFound, HeadUnreachable, Observed, PodEnding

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_PATH = re.compile(r"[A-Za-z0-9._/-]{1,256}")
"""Pattern of a checkpoint's prefix. Other text in a HEAD is untrusted and not shown."""


def with_checkpoint(observed: Observed) -> TrainingRunStatus:
    """The run's status with the newest checkpoint, and with the highest attempt that owned the root."""
    status = observed.run.status
    head = observed.head
    if isinstance(head, HeadFound):
        if foreign_owner(observed) is not None:
            return status
        newest = head.head.newest
        status = status.but(root_attempt=max(status.root_attempt, min(head.head.epoch.attempt, LARGEST_EXACT)))
        return status if newest is None else status.but(checkpoint=_from_root(newest, observed.now))
    if isinstance(head, HeadUnreachable):
        known, reported = [status.checkpoint] if status.checkpoint else [], _from_report(observed)
        endings, group = observed.endings, present_group(status)
        if reported and observed.report_of(group):
            # The present group knows HEAD: after a return its newest checkpoint is older than one that was given up.
            known, endings = reported, observed.endings_of(group)
        # For the same step the later source wins: the status, reports of ended processes, the report of the running one
        # (most detail).
        newest = sorted(
            [*known, *_from_endings(endings, status, observed.now), *reported],
            key=lambda checkpoint: checkpoint.step,
        )
        return status.but(checkpoint=newest[-1]) if newest else status
    return status


def foreign_owner(observed: Observed) -> Owner | None:
    """The owner of the root if it is another run, else None.

    A sampler works in the root of its run, and the checkpoints of that run are its progress.
    """
    spec = observed.run.spec
    if not isinstance(observed.head, HeadFound) or (spec and spec.task == "sample"):
        return None
    owner = observed.head.head.owner
    mine = Owner(namespace=observed.run.namespace, name=observed.run.name)
    return None if owner.same_run(mine) else owner


def shown_owner(owner: Owner) -> str:
    """The owner of a root for a message: the name in HEAD, if it is a valid name of a run."""
    known = all(_NAME.fullmatch(name) for name in (owner.namespace, owner.name))
    return f"run {owner.namespace}/{owner.name}" if known else "another run"


def _from_root(step: CommittedStep, now: datetime) -> RunCheckpoint:
    return RunCheckpoint(
        step=min(step.step, LARGEST_EXACT),
        attempt=min(step.epoch.attempt, LARGEST_EXACT),
        path=step.path if _PATH.fullmatch(step.path) else "",
        time=_time(step.time, now),
        size_bytes=min(step.size_bytes, LARGEST_EXACT),
        verified=True if step.verification == "passed" else None,
        source="root",
    )


def _from_report(observed: Observed) -> list[RunCheckpoint]:
    reported = observed.report and observed.report.checkpoint
    if reported is None:
        return []
    size = None if reported.size_bytes is None else min(reported.size_bytes, LARGEST_EXACT)
    return [
        _from_trainer(reported.step, reported.attempt, text(reported.path), _time(reported.time, observed.now), size)
    ]


def _from_endings(endings: Iterable[PodEnding], status: TrainingRunStatus, now: datetime) -> list[RunCheckpoint]:
    """Checkpoints in the termination reports of processes, which have the step but not the path."""
    known = status.resume_step
    return [
        _from_trainer(report.checkpoint_step, ending.group.attempt, "", _time(report.time, now), None)
        for ending in endings
        if (report := ending.report) is not None
        and report.checkpoint_step is not None
        and report.checkpoint_step > known
    ]


def _from_trainer(step: int, attempt: int, path: str, time: str, size_bytes: int | None) -> RunCheckpoint:
    return RunCheckpoint(
        step=min(step, LARGEST_EXACT),
        attempt=min(attempt, LARGEST_EXACT),
        path=path,
        time=time,
        size_bytes=size_bytes,
        source="trainer",
    )


def _time(reported: str, now: datetime) -> str:
    return stamp(moment(reported) or now)
