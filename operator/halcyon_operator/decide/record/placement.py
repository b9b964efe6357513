"""The recorded placement of a run: the room for its slices and for more, blames of nodes, the cost of a growth. Pure.

Nodes are not read: the scheduler's results show whether there is room. The run's own pods show it for its present
slices, the pods of a probe for more slices (`next/placement.py`).

When one process ends, the others end too, so only the node of the first process can be blamed, and only if that process
is certain. Kubernetes writes whole seconds; processes that report that another process had ended before them do not
count. A process group on a single node blames no node, because the cause may be the program.
"""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

from halcyon_api.elastic import usable_slices, wanted_slices
from halcyon_api.ends import EndCause
from halcyon_api.places import price_of
from halcyon_api.status.progress import SlowProcess
from halcyon_api.status.run_status import MAX_BLAMES, Blame, PlacementStatus, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.decide.record.plan import plan_hash
from halcyon_operator.decide.record.spec_hash import RETIRED
from halcyon_operator.model.endings import GroupEnd, cause_of, is_echo
from halcyon_operator.model.history import entry_of, group_of, present_group, process_of
from halcyon_operator.model.untrusted import moment, seconds_between, stamp
from halcyon_operator.model.views import JobSetView, Observed, PodEnding, PodView, ProcessGroup

SHARE = 20
"""A growth has paid for itself, and a lost one may be retried, when the run has trained for this multiple of the cost.
"""
LONGEST_PAUSE_SECONDS = 86_400.0
STAY_RESERVE, MOVE_RESERVE = 1.1, 1.3
"""Multiple of the remaining time of a row that must be left until the deadline, to stay in it and to go to it."""


def placement_of(status: TrainingRunStatus, spec: TrainingRunSpec) -> PlacementStatus:
    """The recorded placement; if there is none, that of the attempt's topology."""
    slices = status.topology.slices if status.topology is not None else spec.accelerator.slices
    return status.placement or PlacementStatus(slices=slices, wanted_slices=wanted_slices(spec))


def left_alone(status: TrainingRunStatus) -> set[str]:
    """The avoided nodes that only the present attempt's pods on them leave."""
    avoided = status.placement.avoided if status.placement is not None else ()
    return {one.node for one in avoided if one.attempt == status.attempt}


def with_room(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, jobset: JobSetView
) -> TrainingRunStatus:
    """The status with the observed room for the present attempt, and for a larger one."""
    placement = placement_of(status, spec)
    if (
        (spec.recovery.elastic is None and spec.place is None and not placement.avoided)
        or jobset.deleting
        or status.attempt_spec_hash == RETIRED
    ):
        return status
    update: dict[str, object] = {"wanted_slices": wanted_slices(spec), "waiting_since": None}
    if spec.place is not None:
        update["speeds"] = _speeds(status, spec, placement)
    if observed.probe is None:
        update["room_row"] = better_row(observed, status)
    # While a queue holds the JobSet, its pods need no node.
    if (
        jobset.outcome == "running"
        and not jobset.suspended
        and not _all_placed(observed, status, spec, placement.slices, jobset)
    ):
        update["waiting_since"] = placement.waiting_since or stamp(observed.now)
    room = None if update["waiting_since"] else _room(observed, spec, placement)
    if room is None:
        update |= {"room_since": None, "room_slices": None, "room_step": None}
    elif placement.room_since is None:
        step = status.resume_step
        update |= {"room_since": stamp(observed.now), "room_slices": room, "room_step": step}
    else:
        update["room_slices"] = room
    placement = placement.but(**update)
    entry = entry_of(status, present_group(status))
    if (pause := search_pause(spec)) is not None and entry and entry.ended_at is None:
        placement = with_growth_cost(placement, pause, entry.first_step_at, observed.now)
    return status.but(placement=placement)


def trains(status: TrainingRunStatus) -> bool:
    """Whether the present process group has done its first step."""
    entry = entry_of(status, present_group(status))
    return entry is not None and entry.first_step_at is not None and entry.ended_at is None


def search_pause(spec: TrainingRunSpec) -> float | None:
    """Seconds that the run trains before it searches for room elsewhere. None: it never does."""
    if spec.recovery.elastic is not None:
        return spec.recovery.elastic.grow_after_seconds
    return spec.place.wait_seconds if spec.place and spec.place.by else None


def _speeds(status: TrainingRunStatus, spec: TrainingRunSpec, placement: PlacementStatus) -> list[float]:
    """The known speeds of the rows, with that of the present one: measured, else planned."""
    speeds = [*placement.speeds, *[0.0] * (placement.row + 1 - len(placement.speeds))]
    measured = status.progress.tokens_per_second if status.progress is not None and trains(status) else None
    planned = status.plan.tokens_per_second if status.plan and status.plan.hash == plan_hash(spec) else None
    speeds[placement.row] = measured or speeds[placement.row] or planned or 0.0
    return speeds


def better_row(observed: Observed, status: TrainingRunStatus) -> int | None:
    """The row in which the run should go on if there is room; None: where it is.

    By price, a row that makes the deadline if the present one does not. Else the first earlier row, which the document
    prefers, unless its steps are known to be dearer (or, by time, slower), or it is known to miss the deadline. A run
    must have some time in reserve to stay in its row, and more to go to a cheaper one, so that it does not go to and
    fro.
    """
    rows, placement, progress = observed.run.rows, status.placement, status.progress
    place = rows[0].place if rows else None
    if place is None or place.by is None or placement is None or placement.row >= len(rows):
        return None
    present, end = placement.row, moment(place.deadline)
    speeds = [*placement.speeds, *[0.0] * (len(rows) - len(placement.speeds))]
    eta = progress and progress.eta_seconds

    def makes(row: int, reserve: float) -> bool:
        if end is None or eta is None or not (speeds[row] and speeds[present]):
            return True
        return (end - observed.now).total_seconds() >= reserve * eta * speeds[present] / speeds[row]

    def cost(row: int) -> float | None:
        price = 1.0 if place.by == "time" else price_of(rows[row])
        return price / speeds[row] if price is not None and speeds[row] else None

    def worse(row: int) -> bool:
        there, here = cost(row), cost(present)
        return there is not None and here is not None and there >= here

    if not makes(present, STAY_RESERVE):
        return next((row for row in range(len(rows)) if row != present and makes(row, STAY_RESERVE)), None)
    return next((row for row in range(present) if makes(row, MOVE_RESERVE) and not worse(row)), None)


def with_growth_cost(
    placement: PlacementStatus, search_after: float, first_step_at: str | None, now: datetime
) -> PlacementStatus:
    """The placement, updated with the cost of the last growth.

    Args:
        placement: The placement before.
        search_after: Seconds that the run trains before it searches for room.
        first_step_at: Time of the first step of the present process group; None: not yet.
        now: The time.
    """
    if placement.grown_at is None or first_step_at is None:
        return placement
    cost = seconds_between(placement.grown_at, first_step_at)
    if placement.grown_from is None:
        pause = max(search_after * 2.0 ** min(placement.lost_growths, 16), SHARE * cost)
        start = moment(first_step_at) or now
        until = stamp(start + timedelta(seconds=min(pause, LONGEST_PAUSE_SECONDS)))
        return placement.but(grown_at=None, grow_not_before=until)
    if seconds_between(first_step_at, now) < SHARE * cost:
        return placement
    return placement.but(grown_at=None, grown_from=None, lost_growths=0)


def _all_placed(
    observed: Observed, status: TrainingRunStatus, spec: TrainingRunSpec, slices: int, jobset: JobSetView
) -> bool:
    """Whether every process of the present group has a node."""
    placed = {pod.process for pod in observed.pods_of(group_of(status, jobset)) if pod.node}
    return len(placed) >= slices * spec.accelerator.resolve().hosts_per_slice


def _room(observed: Observed, spec: TrainingRunSpec, placement: PlacementStatus) -> int | None:
    """The number of slices including those that a probe holds; None if it is not larger than the present number.

    A number below the wanted one counts only after the probe has searched for `growAfterSeconds`.
    """
    elastic, probe, usable = spec.recovery.elastic, observed.probe, usable_slices(spec)
    if probe is None or probe.jobset.deleting or probe.jobset.outcome != "running":
        return None
    pods = [pod for pod in probe.pods if pod.phase == "Running" and not pod.deleting]
    if placement.room_row is not None and placement.room_row < len(observed.run.rows):
        there = observed.run.rows[placement.room_row]
        slices = there.accelerator.slices
        return slices if whole_slices(pods, there) >= slices else None
    if elastic is None:
        return None
    most = placement.slices + whole_slices(pods, spec)
    largest = max((number for number in usable if placement.slices < number <= most), default=None)
    if largest in (None, usable[-1]) or placement.room_since is not None:
        return largest
    begun = probe.jobset.created_at or observed.now
    return largest if (observed.now - begun).total_seconds() >= elastic.grow_after_seconds else None


def whole_slices(pods: list[PodView], spec: TrainingRunSpec) -> int:
    """The number of complete slices of some pods.

    If a slice is a node pool, its hosts belong together; else any hosts form a slice.
    """
    hosts = spec.accelerator.resolve().hosts_per_slice
    processes = {pod.process for pod in pods}
    if not spec.accelerator.row.pool_is_slice:
        return len(processes) // hosts
    return sum(count >= hosts for count in Counter(process[0] for process in processes).values())


def blames_for(observed: Observed, group: ProcessGroup, end: GroupEnd) -> list[Blame]:
    """The node on which the end of a process group began, if it was a failure or a rejection and the node is certain.

    If an audit cannot say which of some nodes has wrong numbers, each of them.
    """
    endings, corrupted = observed.endings_of(group), end.cause == EndCause.CORRUPTED
    if end.cause == EndCause.REJECTED:
        rejecting = {(one.node, stamp(one.at)) for one in endings if one.trouble == "rejected" and one.node}
        return [
            Blame(node=node, time=at, attempt=group.attempt, restart=group.restart, rejected=True)
            for node, at in sorted(rejecting)
        ]
    if not end.is_failure or end.at is None:
        return []
    nodes = {ending.node for ending in endings} | {pod.node for pod in observed.pods_of(group)}
    first = {ending.node for ending in endings if (corrupted or ending.at == end.at) and _began(ending)}
    if len(nodes - {""}) < 2 or (len(first) > 1 and not corrupted):
        return []
    certain = len(first) == 1 if corrupted else None
    return [
        Blame(node=node, time=stamp(end.at), attempt=group.attempt, restart=group.restart, corrupted=certain)
        for node in sorted(first)
    ]


def slow_blames(
    observed: Observed, status: TrainingRunStatus, placement: PlacementStatus, slow: SlowProcess
) -> list[Blame]:
    """The node of a process that the trainer reports as slow; empty if it is not known, or the blame is recorded.

    Args:
        observed: The observation.
        status: The run's status.
        placement: The run's placement.
        slow: The process.
    """
    process, group = process_of(status, slow.process), present_group(status)
    blames = [
        Blame(node=pod.node, time=stamp(observed.now), attempt=group.attempt, restart=group.restart, slow=slow.step)
        for pod in observed.pods_of(group)
        if pod.process == process and pod.node
    ]
    known = {(one.node, one.attempt, one.restart) for one in placement.blames if one.slow}
    return [one for one in blames if (one.node, *group) not in known]


def with_no_room(observed: Observed, group: ProcessGroup, end: GroupEnd) -> GroupEnd:
    """The end of a process group, with cause `noRoom` if its processes gave up waiting for others whose pods had no
    node.
    """
    pods = [ending.node for ending in observed.endings_of(group)]
    pods += [pod.node for pod in observed.pods_of(group)]
    starved = end.cause == EndCause.FAILED and end.others_missing and not all(pods)
    return replace(end, cause=EndCause.NO_ROOM) if starved else end


def with_blames(status: TrainingRunStatus, spec: TrainingRunSpec | None, blames: list[Blame]) -> TrainingRunStatus:
    """The status with some more blames of nodes, each once."""
    if spec is None or not blames:
        return status
    placement = placement_of(status, spec)
    new = [one for one in blames if one not in placement.blames]
    return status.but(placement=placement.but(blames=[*placement.blames, *new][-MAX_BLAMES:]))


def _began(ending: PodEnding) -> bool:
    """Whether the end of a pod may have ended its process group."""
    failure = ending.trouble == "exited" and cause_of(ending).end.budget == "failure"
    return failure and bool(ending.node) and not is_echo(ending)
