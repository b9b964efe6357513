"""The last step of a run that is done: that of its document, or an earlier one if its evaluations did not improve. Pure."""

from __future__ import annotations

from halcyon_api.progress import Progress
from halcyon_api.status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.history import present_group, shown
from halcyon_operator.model.views import Observed


def last_progress(observed: Observed, status: TrainingRunStatus) -> Progress:
    """The run's last progress: from the termination report of process 0, else from its last progress report."""
    known = status.progress or Progress()
    group = present_group(status)
    left = (ending.report.progress for ending in observed.endings if ending.group == group and ending.report is not None)
    return next((shown(progress, known) for progress in left if progress is not None), known)


def final_step(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> int:
    """Steps done at the end of a run of task ``train`` that has succeeded.

    If the last report of the trainer did not arrive, the last checkpoint says whether a run with ``evaluation.best.patience`` stopped
    early: a run saves its last step before it ends.
    """
    best, steps = spec.trainer.evaluation.best, spec.trainer.steps
    if best is None or best.patience is None:
        return steps
    progress = last_progress(observed, status)
    if progress.stopped_early:
        return min(progress.step, steps)
    return min(status.checkpoint.step, steps) if status.checkpoint is not None and status.checkpoint.step else steps
