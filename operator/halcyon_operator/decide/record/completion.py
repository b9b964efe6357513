"""The last step of a run whose processes are done: that of its document, or an earlier one. Pure.

A run may stop early because its evaluations did not improve. If nothing says that, exit code 0 before the last step is
a fault of the program in the image, and the run has not succeeded.
"""

from typing import Literal

from halcyon_api.status.progress import Progress, TerminationReport
from halcyon_api.status.requests import read_recorded
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.record.history import shown
from halcyon_operator.model.history import present_group
from halcyon_operator.model.views import HeadAbsent, HeadFound, JobSetView, Observed, ProcessIndex

UNSEEN_SECONDS = 30.0
"""Wait for the termination report and the last checkpoint after the end of a JobSet, before they count as lost."""
_STEPS = "trainer.steps"
_LEADER = ProcessIndex(0, 0)


def last_progress(observed: Observed, status: TrainingRunStatus) -> Progress:
    """The run's last progress: from the termination report of process 0, else from its last progress report."""
    known = status.progress or Progress()
    left = (report.progress for report in _reports(observed, status).values())
    return next((shown(progress, known) for progress in left if progress), known)


def said_at_end(observed: Observed, status: TrainingRunStatus) -> str:
    """What the termination report of process 0 says; empty if there is none."""
    leader = _reports(observed, status).get(_LEADER)
    return leader.message if leader else ""


def _reports(observed: Observed, status: TrainingRunStatus) -> dict[ProcessIndex, TerminationReport]:
    return observed.reports_at_end(present_group(status))


def steps_done(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> int:
    """Steps that are known to be done, by HEAD; by the reports where the operator cannot read the root, and of a
    replay, which saves nothing.
    """
    if spec.task == "train" and isinstance(observed.head, HeadFound | HeadAbsent):
        return status.resume_step
    reports = (report.step for report in _reports(observed, status).values())
    return max(status.resume_step, last_progress(observed, status).step, *reports, 0)


def last_step(spec: TrainingRunSpec) -> int:
    """The last step of a document; of a replay without `toStep`, the first one, because only the trainer knows more."""
    origin = spec.origin
    if spec.task == "replay" and origin and origin.step is not None:
        return origin.to_step or origin.step + 1
    return spec.trainer.steps


def early_end(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> str:
    """One sentence about a run whose processes ended with exit code 0 before its last step."""
    done, run = steps_done(observed, status, spec), observed.run
    return (
        f"all processes ended with exit code 0, but only {done} of {last_step(spec)} steps are known to be done; "
        f"read {run.log} for what ended them, then edit the spec, or {run.restart}"
    )


def completion(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, jobset: JobSetView
) -> Literal["completed", "endedEarly", "unseen"]:
    """What it means that all processes of a JobSet have ended with exit code 0; `unseen`: the last report may still
    come.
    """
    if spec.task not in ("train", "replay"):
        return "completed"
    best, progress = spec.trainer.evaluation.best, last_progress(observed, status)
    patient = best and best.patience is not None
    last = min(last_step(spec), planned_steps(status) or last_step(spec))
    if patient and progress.stopped_early:
        last = min(last, progress.step)
    if steps_done(observed, status, spec) >= last:
        return "completed"
    leader = _reports(observed, status).get(_LEADER)
    if (
        (leader is None or leader.step >= last)
        and jobset.finished_at is not None
        and (observed.now - jobset.finished_at).total_seconds() < UNSEEN_SECONDS
    ):
        return "unseen"
    may_stop_early = patient and leader is None and status.resume_step > 0
    return "completed" if may_stop_early else "endedEarly"


def final_step(observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec) -> int:
    """Steps done at the end of a run of task ``train`` that has succeeded.

    If the last report of the trainer did not arrive, the last checkpoint says whether a run with
    ``evaluation.best.patience`` stopped early: a run saves its last step before it ends.
    """
    best, steps = spec.trainer.evaluation.best, spec.trainer.steps
    if best is None or best.patience is None:
        return steps
    progress = last_progress(observed, status)
    if progress.stopped_early:
        return min(progress.step, steps)
    return min(status.resume_step or steps, steps)


def planned_steps(status: TrainingRunStatus) -> int | None:
    """The steps that the present attempt does; None: not known yet."""
    steps = read_recorded(status.in_force or {}).get(_STEPS)
    return steps if isinstance(steps, int) else None


def lengthened(status: TrainingRunStatus, spec: TrainingRunSpec) -> bool:
    """Whether the spec now has more steps than the attempts were created for."""
    planned = planned_steps(status)
    return spec.task == "train" and planned is not None and planned < spec.trainer.steps
