"""The Kubernetes Events of a run. Pure; `run.controller` posts each key once."""

from collections.abc import Iterator

from halcyon_api.counting import percent
from halcyon_api.defaults.status import DefaultsStatus
from halcyon_api.ends import EndReason
from halcyon_api.status.progress import ProgressReport, SlowProcess
from halcyon_api.status.run_status import HistoryEntry, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.decision import Event
from halcyon_operator.model.endings import GroupEnd
from halcyon_operator.model.history import entry_of, last_end
from halcyon_operator.model.reasons import stall_reason
from halcyon_operator.model.views import ProcessGroup

NEARLY_SPENT = 0.8
"""Used share of a budget at which an event warns."""


def attempt_started(status: TrainingRunStatus) -> tuple[Event, ...]:
    """The event when an attempt's JobSet exists."""
    topology = status.topology
    on = f" on {topology.slices} slices, {topology.hosts} hosts, {topology.devices} devices" if topology else ""
    step = status.resume_step
    begins = f"resuming from step {step}" if step else "from the beginning"
    return (Event("Normal", "AttemptStarted", f"Attempt {status.attempt}{on}, {begins}", f"started/{status.attempt}"),)


def ended(status: TrainingRunStatus, group: ProcessGroup, end: GroupEnd, *, restarting: bool) -> tuple[Event, ...]:
    """The event when a process group has ended."""
    entry = entry_of(status, group)
    after = f" after step {entry.to_step}" if entry and entry.to_step is not None else ""
    then = "; restarting" if restarting else ""
    name, key = _named(entry, group)
    message = f"{name} ended{after}: {end.message}{then}"
    return (Event("Warning", EndReason(end.cause.end.event), message, f"ended/{key}"),)


def _named(entry: HistoryEntry | None, group: ProcessGroup) -> tuple[str, str]:
    """The name of a process group in a sentence, and in the key of an event."""
    name, key = f"Attempt {group.attempt}, restart {group.restart}", f"{group.attempt}.{group.restart}"
    times = entry.in_place if entry else 0
    return (f"{name}, in place {times}", f"{key}+{times}") if times else (name, key)


def resumed(status: TrainingRunStatus, group: ProcessGroup, report: ProgressReport, step: int) -> tuple[Event, ...]:
    """The events when a process group has resumed the run, with its first report.

    Two are about a lost HEAD and a damaged checkpoint.
    """
    entry = entry_of(status, group)
    if entry is None or entry.from_step is not None:
        return ()
    found: tuple[Event, ...] = ()
    name, key = _named(entry, group)
    if report.head_loss is not None:
        message = f"Rebuilt the root's HEAD from its checkpoints: {report.head_loss}"
        found += (Event("Warning", "HeadRebuilt", message, f"head/{key}"),)
    if report.fallback_reason is not None:
        message = f"Restored step {step}, not the newest checkpoint: {report.fallback_reason}"
        found += (Event("Warning", "CheckpointFallback", message, f"fallback/{key}"),)
    if step > 0:
        found += (Event("Normal", "Resumed", f"{name} goes on from step {step}", f"resumed/{key}"),)
    return found


def state_changed(before: TrainingRunStatus, after: TrainingRunStatus) -> Iterator[Event]:
    """The events when the run reaches a state that users wait for or must act on."""
    stalled, was = after.condition("Stalled"), before.condition("Stalled")
    reason = stall_reason(stalled.reason) if stalled and stalled.status == "True" else ""
    state = f"{after.observed_generation}/{after.attempt}"
    if stalled and reason and (was is None or (was.status, was.reason) != ("True", reason)):
        yield Event("Warning", reason, stalled.message, f"stalled/{state}/{reason}")
    if after.phase != before.phase and after.phase in ("Succeeded", "Suspended"):
        condition = after.condition("Ready")
        yield Event("Normal", after.phase, condition.message if condition else after.phase, f"{after.phase}/{state}")


def budget_nearly_spent(before: TrainingRunStatus, after: TrainingRunStatus) -> Iterator[Event]:
    """The event when 80 % of the budget is used, once for each generation of the document."""
    was, share = ((status.spent and status.spent.share) or 0.0 for status in (before, after))
    if was < NEARLY_SPENT <= share:
        message = f"{percent(share)} of spec.budget is used; at 100% the run saves and is suspended"
        yield Event("Warning", "BudgetNearlySpent", message, f"budget/{after.observed_generation}")


def expired(spec: TrainingRunSpec) -> Event:
    """The event when the run is deleted because its time to live is over."""
    message = (
        f"Deleted {spec.ttl_seconds_after_finished} s after it succeeded; its checkpoints stay in "
        f"{spec.checkpoint.root}"
    )
    return Event("Normal", "Expired", message, "expired")


def config_map_lost(status: TrainingRunStatus) -> Event:
    """The event when the ConfigMap of the present attempt is created a second time."""
    message = f"ConfigMap {status.job_set_name} was deleted; the operator creates it again"
    return Event("Warning", "ConfigMapDeleted", message, f"configMap/{status.attempt}/{len(status.history)}")


def placement_changed(before: TrainingRunStatus, after: TrainingRunStatus) -> Iterator[Event]:
    """The events when the run changes its number of slices or its avoided nodes, or when there is room for more
    slices.
    """
    now = after.placement
    if now is None:
        return
    was = before.placement or now.but(avoided=[], room_since=None)
    entry, attempt = last_end(after), after.attempt
    why = (entry and entry.message) or ""
    if now.row != was.row and before.attempt == attempt:
        yield Event("Normal", "PlaceChanged", why, f"row/{attempt}")
    elif now.slices != was.slices and before.attempt == attempt:
        shrunk = now.slices < was.slices
        yield Event("Warning" if shrunk else "Normal", "Shrinking" if shrunk else "Growing", why, f"slices/{attempt}")
    if now.room_since is not None and was.room_since is None:
        message = f"There is room for {now.room_slices} slices; the run grows from {now.slices} at its next checkpoint"
        if now.room_row is not None:
            message = f"There is room in row {now.room_row} of place; the run moves at its next checkpoint"
        yield Event("Normal", "RoomFound", message, f"room/{attempt}/{now.room_since}")
    known, avoided = {node.node for node in was.avoided}, {node.node for node in now.avoided}
    slow = {blame.node for blame in now.blames if blame.slow}
    for node in sorted(avoided - known):
        said = "its process was slower than the others" if node in slow else why
        yield Event("Warning", "NodeAvoided", f"Attempts avoid node {node}: {said}", f"avoided/{attempt}/{node}")
    if known - avoided:
        message = f"Attempts may use these nodes again: {', '.join(sorted(known - avoided))}"
        yield Event("Normal", "NodesTakenBack", message, f"forgiven/{attempt}")


def slow_process(group: ProcessGroup, slow: SlowProcess, node: str) -> Event:
    """The event when the other processes wait for a slow one."""
    name, key = _named(None, group)
    message = (
        f"{name}, step {slow.step}: the others wait for process {slow.process} on node {node}, whose own work takes "
        f"{slow.ratio:g} times as long"
    )
    return Event("Warning", "SlowProcess", message, f"slow/{key}/{node}")


def checkpoint_failing(report: ProgressReport | None) -> tuple[Event, ...]:
    """The event when the last save failed and training goes on."""
    if report is None or report.checkpoint_error is None:
        return ()
    message = f"The last save failed, training goes on: {report.checkpoint_error}"
    key = f"save/{report.attempt}.{report.restart}/{report.checkpoint_error}"
    return (Event("Warning", "CheckpointFailed", message, key),)


def defaults_taken(record: DefaultsStatus | None, attempt: int) -> tuple[Event, ...]:
    """The event when an attempt takes defaults."""
    if record is None or not record.sources:
        return ()
    where = " and ".join(
        f"{source.namespace}/{source.name} (generation {source.generation})" for source in record.sources
    )
    message = f"Attempt {attempt} takes the defaults of {where}: {', '.join(record.values) or 'nothing'}"
    return (Event("Normal", "DefaultsTaken", message, f"defaults/{attempt}/{record.request}"),)
