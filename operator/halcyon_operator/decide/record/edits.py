"""The effect of an edit of the spec: some fields take effect at once, others wait for a checkpoint and a new attempt.
Pure.

`status.inForce` has the editable fields that the run uses. A difference to the spec is an edit. A live field takes
effect at once. For any other field the trainer is asked for a checkpoint (`save_requests.py`). When a checkpoint
contains all steps that were done when the edit was seen, the attempt is stopped (`next/attempts.py`), and the next one
is created with the fields as they are then. If the run does not train, there is no wait. The wait is also limited: a
trainer that does not answer, or whose saves fail, is stopped, and saves if it can."""

from datetime import datetime

from halcyon_api.edits.changes import Change as FieldChange
from halcyon_api.edits.changes import changes
from halcyon_api.edits.steps import steps_refusal
from halcyon_api.elastic import usable_slices
from halcyon_api.status.requests import EditStatus, SaveRequestStatus, read_recorded
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.record.completion import lengthened, planned_steps
from halcyon_operator.decide.record.placement import placement_of, trains
from halcyon_operator.decide.record.spec_hash import RETIRED, fits
from halcyon_operator.decide.tell.describe import sentence
from halcyon_operator.model.decision import Change, Event
from halcyon_operator.model.untrusted import seconds_between, stamp
from halcyon_operator.model.views import JobSetView, Observed

MAX_ACCEPT_SECONDS = 60.0
"""Longest wait for a trainer that does not accept the request, or whose saves fail."""
MAX_SAVE_SECONDS = 600.0
"""Longest wait for a save in flight."""
SUSPEND = "suspend"


def with_edits(observed: Observed, status: TrainingRunStatus, jobset: JobSetView | None, wanted_hash: str) -> Change:
    """Compare the spec with the fields in force.

    Args:
        observed: The observation.
        status: The run's status, with the newest checkpoint and progress.
        jobset: The JobSet of the present attempt, if there is one.
        wanted_hash: Hash of the spec that an attempt would be created from now.
    """
    run, spec = observed.run, observed.run.spec
    newer = status.observed_generation < run.generation
    if spec is None or status.attempt == 0 or status.in_force is None:
        return Change(status, retry=newer)
    if status.holds("Succeeded") and not lengthened(status, spec):
        return Change(status)
    found = _changes(status, run.fields)
    refusal = _refusal(status, spec)
    if refusal is not None:
        return Change(status.but(edit=None), refusal=refusal)
    retry = newer and any(change.starts_again for change in found)
    slices = placement_of(status, spec).slices
    edited = not fits(status.attempt_spec_hash, wanted_hash) or slices not in usable_slices(spec)
    live = tuple(change for change in found if change.edit == "live")
    later = tuple(change for change in found if change.edit != "live")
    events: tuple[Event, ...] = ()
    # A field whose value the attempt already has needs no new attempt, such as a mesh that equals the suggested one.
    if taken := live if edited else found:
        in_force = {
            path: text for path, text in status.in_force.items() if path not in {change.path for change in taken}
        }
        in_force |= {change.path: run.fields[change.path] for change in taken if change.path in run.fields}
        status = status.but(in_force=in_force)
    if live:
        events += (
            Event("Normal", "EditApplied", f"In force at once: {sentence(live)}", f"edit/{run.generation}/live"),
        )
    if jobset is None or jobset.outcome != "running" or jobset.deleting or status.attempt_spec_hash == RETIRED:
        return Change(status, events, retry=retry)
    waiting = trains(status) and spec.task == "train"
    fields = [*([SUSPEND] if spec.suspend else []), *(change.path for change in later)]
    edit = _waiting(status.edit, fields, observed.now) if edited or (spec.suspend and waiting) else None
    if edit is not None and (status.edit is None or edit.fields != status.edit.fields):
        what = "The run is to be suspended" if spec.suspend else sentence(later) or "The spec was edited"
        events += (Event("Normal", "EditPending", f"{what}: {_then(spec, waiting)}", f"edit/{run.generation}"),)
    elif edit is None and status.edit is not None:
        message = f"The edit was withdrawn before it took effect; attempt {status.attempt} goes on"
        events += (Event("Normal", "EditWithdrawn", message, f"edit/{run.generation}"),)
    return Change(status.but(edit=edit), events, retry=retry)


def _then(spec: TrainingRunSpec, waiting: bool) -> str:
    """Clause about the next action after an edit that is not live."""
    if spec.suspend:
        return (
            "asking for a checkpoint, then the hardware is released" if waiting else "the hardware is released at once"
        )
    return "asking for a checkpoint, from which a new attempt goes on" if waiting else "a new attempt is made at once"


def with_edits_in_force(observed: Observed, status: TrainingRunStatus, attempt: int) -> Change:
    """The status of a new attempt, with which all edits take effect."""
    found = () if status.in_force is None else _changes(status, observed.run.fields)
    changed = status.but(in_force=dict(observed.run.fields), edit=None)
    if not found:
        return Change(changed)
    step = status.resume_step
    message = (
        f"In force with attempt {attempt}, {f'from step {step} on' if step else 'from the beginning'}: "
        f"{sentence(found)}"
    )
    return Change(changed, (Event("Normal", "EditApplied", message, f"edit/attempt/{attempt}"),))


def saved(observed: Observed, status: TrainingRunStatus) -> bool:
    """Whether the wait of an edit or a requested restart for a checkpoint is over."""
    restart = status.restart if status.restart_waits else None
    waiting = [save for save in (status.edit and status.edit.save, restart) if save]
    if not waiting or not trains(status):
        return True
    if observed.run.spec and observed.run.spec.task != "train":
        return True  # such a run makes no checkpoint
    return any(_served(observed, save) for save in waiting)


def _served(observed: Observed, save: SaveRequestStatus) -> bool:
    """Whether a checkpoint contains all steps that were done when it was requested, or the longest wait is over."""
    if save.step is not None:
        return True
    failing = observed.report and observed.report.checkpoint_error is not None
    patience = MAX_ACCEPT_SECONDS if save.asked_step is None or failing else MAX_SAVE_SECONDS
    return seconds_between(save.requested_at, observed.now) >= patience


def _waiting(known: EditStatus | None, fields: list[str], now: datetime) -> EditStatus:
    if known is not None:
        return known.but(fields=fields)  # one checkpoint serves all edits made meanwhile
    since = stamp(now)
    return EditStatus(since=since, fields=fields, save=SaveRequestStatus(value=f"edit {since}", requested_at=since))


def _changes(status: TrainingRunStatus, fields: dict[str, str]) -> tuple[FieldChange, ...]:
    return changes(read_recorded(status.in_force or {}), read_recorded(fields))


def _refusal(status: TrainingRunStatus, spec: TrainingRunSpec) -> str | None:
    planned = planned_steps(status)
    if planned is None or spec.task != "train":
        return None
    done = max(status.resume_step, status.progress.step if status.progress is not None else 0)
    rehearsal = spec.data.mixture.simulate_tokens is not None
    return steps_refusal(spec.optimizer, rehearsal=rehearsal, old=planned, new=spec.trainer.steps, done=done)
