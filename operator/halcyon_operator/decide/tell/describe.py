"""Describes the state of an attempt for its user: phase, reason and one sentence. Pure."""

from halcyon_api import names
from halcyon_api.counting import counted
from halcyon_api.edits.changes import Change as FieldChange
from halcyon_api.status.progress import Progress, ProgressReport, StoreWait, StoreWaitFor
from halcyon_api.status.run_status import HistoryEntry, TrainingRunStatus
from halcyon_api.training_run import Task, TrainingRunSpec
from halcyon_operator.decide.tell.conditions import EDIT_PENDING, RESTART_PENDING, SILENT, Description
from halcyon_operator.decide.tell.pods import HELD, NO_ANSWER, held_sentence, start_problem
from halcyon_operator.decide.tell.queue import describe_queued
from halcyon_operator.model.endings import conclude, fails_job
from halcyon_operator.model.history import entry_of, group_of, had_processes
from halcyon_operator.model.ownership import SILENT_SECONDS
from halcyon_operator.model.reasons import StartReason
from halcyon_operator.model.untrusted import moment, stamp
from halcyon_operator.model.views import HeadUnreachable, JobSetView, Observed, PodView

_STORES: dict[StoreWaitFor, str] = {
    "checkpointRoot": "checkpoint root, which denies access",
    "tokenCache": "token caches, which denies access",
    "dataSource": "data, which denies access or does not answer",
}
"""Clause about the store that a trainer waits for."""
_WORK: dict[Task, str] = {
    "train": "training",
    "data": "tokenizing",
    "evaluate": "evaluating",
    "replay": "replaying",
    "measure": "measuring",
    "sample": "sampling",
}
"""Work of a process group by task, for the message of a Running run."""
_MOST_SHOWN = 5


def describe_attempt(observed: Observed, status: TrainingRunStatus, jobset: JobSetView) -> Description:
    """The description of an attempt whose JobSet has not ended."""
    group = group_of(status, jobset)
    entry = entry_of(status, group)
    first = len(status.history) <= 1
    starting = "Starting" if first else "Restarting"
    if jobset.suspended and jobset.queue:
        return describe_queued(observed, status, jobset)
    if jobset.suspended:
        message = f"JobSet {jobset.name} is suspended by a user; the run goes on when the JobSet is resumed"
        if not had_processes(observed, status, group):
            message = (
                f"JobSet {jobset.name} was suspended before it had pods, as Kueue does with "
                "manageJobsWithoutQueueName; name a queue in "
                "spec.scheduling.queue, have the owner of Kueue exempt the namespace, or resume the JobSet"
            )
        return Description(starting if entry is None or not entry.cause else "Restarting", "JobSetSuspended", message)
    if (held := held_sentence(observed.pods_of(group))) is not None and jobset.outcome == "running":
        return Description("Restarting" if conclude(observed.endings, group) is not None else "Running", HELD, held)
    end, pods = conclude(observed.endings, group), observed.pods_of(group)
    alone = jobset.in_place and jobset.outcome == "running" and not any(map(fails_job, observed.endings_of(group)))
    if alone and (lost := _lost(pods, status, entry)):
        said = f"{end.message}; " if end is not None else ""
        message = f"{said}{lost} is replaced; the others wait in their pods"
        return Description("Restarting", *(_problem(observed, status, pods) or ("Restarting", message)))
    if end is not None and jobset.outcome == "running":
        ended_at = max(ending.at for ending in observed.endings_of(group))
        if all(pod.over for pod in observed.pods) and (observed.now - ended_at).total_seconds() >= SILENT_SECONDS:
            return Description(
                "Restarting", SILENT, f"{end.message}; JobSet {jobset.name} is not restarted: {NO_ANSWER}"
            )
        return Description("Restarting", "Restarting", f"{end.message}; the JobSet starts the run again")
    if entry and entry.first_step_at is not None:
        report = observed.report_of(group)
        doing = _doing(report, observed.run.spec.task if observed.run.spec else "train")
        training = f"attempt {group.attempt}, restart {group.restart} {doing}"
        if observed.report_problem:
            training += f" by its last report; process 0 does not report now ({observed.report_problem})"
        failed = report and report.checkpoint_error
        problem = "" if failed is None else f", but the last save failed: {failed}"
        if observed.run.spec and observed.run.spec.suspend:
            return Description(
                "Suspending",
                "Suspending",
                f"{training}{problem}; a checkpoint is asked for, then the hardware is released",
            )
        asked = "; a restart waits for a checkpoint" if status.restart_waits else ""
        pending = EDIT_PENDING if status.edit is not None else RESTART_PENDING if asked else ""
        reason = "CheckpointsFailing" if problem else pending or "Running"
        edit = f"; an edit waits for a checkpoint: {_some(status.edit.fields) or 'spec'}" if status.edit else ""
        message = f"{training}{problem}{edit}{asked}{'' if problem else _reach(observed)}"
        return Description("Running", reason, message, pending=pending)
    if (problem := _problem(observed, status, pods)) is not None:
        return Description(starting, *problem)
    return Description(starting, starting, _start_message(observed, status, pods))


def _lost(pods: list[PodView], status: TrainingRunStatus, entry: HistoryEntry | None) -> str:
    """The pods without a process, or that lose it, in a process group that has trained; empty: there are none."""
    wanted = status.topology.hosts if status.topology is not None else len(pods)
    unfinished = [pod for pod in pods if not (pod.ending and pod.ending.exit_code == 0) and pod.phase != "Succeeded"]
    lost = [f"pod {pod.name}" for pod in unfinished if pod.ending or not pod.running]
    lost += [counted(wanted - len(pods), "pod")] if len(pods) < wanted else []
    began = entry is not None and (entry.in_place > 0 or entry.first_step_at is not None)
    return ", ".join(lost[:_MOST_SHOWN]) if began else ""


def _problem(observed: Observed, status: TrainingRunStatus, pods: list[PodView]) -> tuple[StartReason, str] | None:
    """Reason and message why pods do not start; None if they may still start."""
    warning = observed.pod_warning
    if warning and not warning.reason and observed.pods:
        warning = None  # A JobSet makes its Jobs again once the old pods are gone.
    return start_problem(pods, status.attempt, observed.now, warning)


def describe_transition(status: TrainingRunStatus, spec: TrainingRunSpec, message: str) -> Description:
    """The description of a run before its first attempt, between two attempts, or while it is being suspended."""
    if spec.suspend:
        return Description("Suspending", "Suspending", message)
    if not status.history:
        return Description("Pending", "Pending", message)
    return Description("Restarting", "Restarting", message)


def done_sentence(status: TrainingRunStatus, spec: TrainingRunSpec) -> str:
    """One sentence about a run that is done."""
    progress, checkpoint, steps = status.progress, status.checkpoint, spec.trainer.steps
    if spec.task == "data":
        return "the token caches of all sources are complete"
    if spec.task == "evaluate":
        return _evaluated(progress)
    if spec.task == "measure":
        said = status.history[-1].message if status.history else None
        return said or "the collectives are measured; the log has the numbers"
    if spec.task == "sample":
        return "the run whose answers it sampled is done"
    if spec.task == "replay" and spec.origin and spec.origin.step is not None:
        last = spec.origin.to_step or (progress.step if progress is not None else steps)
        return (
            f"steps {spec.origin.step + 1} to {last} of run {spec.origin.run} are confirmed; replay.json in "
            "checkpoint.root has what was compared"
        )
    where = f"; the last checkpoint is {checkpoint.path}" if checkpoint and checkpoint.path else ""
    if status.attempt == 0:
        step = checkpoint.step if checkpoint is not None else steps
        return (
            f"checkpoint.root already holds step {step} of an earlier run of this name, so there is nothing left to "
            f"train{where}"
        )
    if progress and progress.stopped_early and progress.step < steps:
        best = f"; the best evaluation is that of step {progress.best_step}" if progress.best_step is not None else ""
        return (
            f"stopped early after step {progress.step} of {steps}, because its evaluations did not improve{best}{where}"
        )
    return f"all {steps} steps are done{where}"


def _evaluated(progress: Progress | None) -> str:
    """The result of a run of task `evaluate`, as one sentence."""
    if progress is None or progress.evaluated is None:
        return (
            "all processes ended with exit code 0, and no report of the numbers arrived; the trainer's log and "
            "evaluation.json in the checkpoint root have them"
        )
    numbers = [f"{progress.evaluation_loss:.4f} nats per token"] if progress.evaluation_loss is not None else []
    if not numbers and not progress.tasks:
        numbers = ["a loss that is not a number"]
    if progress.bits_per_byte is not None:
        numbers.append(f"{progress.bits_per_byte:.4f} bits per byte")
    numbers += [f"{name} {value:.4f}" for name, value in sorted((progress.tasks or {}).items())]
    found = progress.evaluated
    return f"the checkpoint of run {found.run} at step {found.step} is evaluated: {', '.join(numbers)}"


def _doing(report: ProgressReport | None, task: Task) -> str:
    """What a process group does or waits for after its first step, as the end of a sentence."""
    late = report and report.late_save
    retried = f", and retries the {_retried(report.waiting)}" if report and report.waiting else ""
    if late is None or (began := moment(late.since)) is None:
        return f"is {_WORK[task]}{retried}"
    silent = moment(late.silent_since)
    since = f"; its store has completed no request since {stamp(silent)}" if silent is not None else ""
    what = "waits for" if late.waits else f"is {_WORK[task]} beside"
    return f"{what} the save of step {late.step}, which began at {stamp(began)} and takes longer than usual{since}"


def _retried(wait: StoreWait) -> str:
    until = moment(wait.until)
    return f"store of its {_STORES[wait.what]}" + (f" until {stamp(until)}" if until is not None else "")


def _start_message(observed: Observed, status: TrainingRunStatus, pods: list[PodView]) -> str:
    wanted = status.topology.hosts if status.topology is not None else len(pods)
    running = sum(pod.running for pod in pods)
    if not pods:
        if observed.pods:
            old = observed.pods[0]
            return f"attempt {status.attempt}: waiting for pod {old.name} to be gone" + (
                f" from node {old.node}" if old.node else ""
            )
        hint = f"if that takes long, `kubectl describe jobs --selector {names.LABEL_RUN}={observed.run.name}` shows why"
        return f"attempt {status.attempt}: waiting for the JobSet to make {wanted} pods; {hint}"
    if running < wanted:
        return f"attempt {status.attempt}: {running} of {wanted} pods run"
    if (report := observed.report) is not None:
        if report.waiting is not None:
            return f"attempt {status.attempt}: the trainer retries the {_retried(report.waiting)}"
        return f"attempt {status.attempt}: all {wanted} pods run; the trainer is {report.stage}"
    return f"attempt {status.attempt}: all {wanted} pods run; the trainer has not answered yet" + (
        f" ({observed.report_problem})" if observed.report_problem else ""
    )


def _reach(observed: Observed) -> str:
    if not isinstance(observed.head, HeadUnreachable):
        return ""
    return (
        f"; the operator cannot read the checkpoint root ({observed.head.reason}): checkpoints are shown as the "
        "trainer reports them"
    )


def edit_clause(status: TrainingRunStatus) -> str:
    """Clause about the edit because of which an attempt is stopped."""
    edit = status.edit
    if edit is None or not edit.fields:
        return "the spec was edited"
    at = f"; saved at step {edit.save.step}" if edit.save.step is not None else ""
    return f"the spec was edited: {_some(edit.fields)}{at}"


def sentence(found: tuple[FieldChange, ...]) -> str:
    """Fields with their old and new values."""
    return _some([str(change) for change in found])


def _some(texts: list[str]) -> str:
    more = f" and {len(texts) - _MOST_SHOWN} more" if len(texts) > _MOST_SHOWN else ""
    return ", ".join(texts[:_MOST_SHOWN]) + more
