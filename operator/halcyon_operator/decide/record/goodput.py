"""Goodput: every second since a run first started is counted under exactly one cause.

Time is counted forward, from the end of the last count (`goodput.countedUntil`) to now, and never twice. The time of a
process group begins where the last one ended. Until its pods exist, the time counts as operator delay; until all pods
have a node, as a wait for capacity; until its first process runs, as startup. After that the reports of the process
divide the time. Time without a known cause (a container runs and has not reported yet) is counted at a later reconcile.
Suspension is left out.

Steps that a later process group repeats were lost, with their share of the step time. They are known once the later
group reports the step at which it resumed, so the sums are computed again at each reconcile (`measure`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from halcyon_api.status.goodput import CAUSES, CarriedGoodput, Goodput, GoodputSeconds, WorldAccount
from halcyon_api.status.run_status import HistoryEntry, TrainingRunStatus
from halcyon_operator.decide.record.history import measure
from halcyon_operator.decide.record.in_place import end_after, ending_in_place
from halcyon_operator.model.history import entry_of
from halcyon_operator.model.untrusted import moment, precise_stamp
from halcyon_operator.model.views import Observed, PodEnding, PodView, ProcessGroup

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_LONGEST_LIFE_SECONDS = 1e9
"""Longer than any process runs; a report with more is ignored."""


def account(observed: Observed, status: TrainingRunStatus) -> TrainingRunStatus:
    """The status with all time counted whose cause is known. Before the first attempt no time is counted."""
    started = moment(status.started_at)
    if started is None:
        return status
    book = _Book.of(status, started)
    history: list[HistoryEntry] = []
    for entry in status.history:
        open_before = bool(history) and history[-1].seconds is None
        history.append(entry if entry.seconds is not None or open_before else _counted(entry, observed, status, book))
    if not history or history[-1].seconds is not None:
        _count_between(observed.run.status, status, book, observed.now)
    status = status.but(history=history)
    return status.but(goodput=measure(status, book.goodput(status.goodput)))


@dataclass
class _Book:
    """The seconds of the present process group, by cause.

    Times and durations are whole milliseconds, so that sums are exact.
    """

    until: int
    milliseconds: dict[str, int]
    process: GoodputSeconds | None
    suspended: int

    @classmethod
    def of(cls, status: TrainingRunStatus, started: datetime) -> _Book:
        known = status.goodput
        if known is None:
            return cls(_milliseconds(started), dict.fromkeys(CAUSES, 0), None, 0)
        until = moment(known.counted_until) or started
        return cls(
            _milliseconds(until),
            known.current.seconds.milliseconds(),
            known.current.process,
            round(1000 * known.suspended_seconds),
        )

    def advance(self, to: datetime, cause: str) -> int:
        """Count the time up to `to`, if it is not counted yet. Returns the counted milliseconds."""
        span = self.take(to)
        self.milliseconds[cause] += span
        return span

    def add_report(self, seconds: GoodputSeconds, at: datetime) -> None:
        """Count the time that a process reports, since its last report."""
        if self.process is None:
            self.advance(at - timedelta(seconds=seconds.total), "startup")
        before = (self.process or GoodputSeconds()).milliseconds()
        news = {cause: count - before[cause] for cause, count in seconds.milliseconds().items()}
        # A process that went back to an earlier checkpoint has moved the time of steps that were counted as productive.
        lost = max(0, news["lost_work"])
        news |= {"productive_step": news["productive_step"] + lost, "lost_work": 0}
        news = {cause: max(0, count) for cause, count in news.items()}
        # The clocks of process and operator differ, and reports may come from two processes of the group: reports give
        # the shares of the causes, the operator's clock gives the time.
        for cause, share in _shares(news, self.take(at)).items():
            self.milliseconds[cause] += share
        lost = min(lost, self.milliseconds["productive_step"])
        self.milliseconds["productive_step"] -= lost
        self.milliseconds["lost_work"] += lost
        self.process = seconds

    def close(self) -> GoodputSeconds:
        """Return the seconds of a process group that has ended, and begin with the next group."""
        closed = GoodputSeconds.of_milliseconds(self.milliseconds)
        self.milliseconds, self.process = dict.fromkeys(CAUSES, 0), None
        return closed

    def goodput(self, before: Goodput | None) -> Goodput:
        """The goodput for the status, without the sums."""
        return Goodput(
            ratio=0.0,
            wall_seconds=0.0,
            productive_seconds=0.0,
            suspended_seconds=self.suspended / 1000,
            counted_until=precise_stamp(_EPOCH + self.until * _MILLISECOND),
            current=WorldAccount(seconds=GoodputSeconds.of_milliseconds(self.milliseconds), process=self.process),
            carried=before.carried if before is not None else CarriedGoodput(),
        )

    def take(self, to: datetime) -> int:
        """The milliseconds up to `to` that are not counted yet. From now on they are."""
        span = max(0, _milliseconds(to) - self.until)
        self.until += span
        return span


def _counted(entry: HistoryEntry, observed: Observed, status: TrainingRunStatus, book: _Book) -> HistoryEntry:
    """An entry of the history with all known time counted; complete if its process group has ended."""
    group, end = _group(entry), moment(entry.ended_at)
    present = entry is entry_of(status, group)
    pods = observed.pods_of(group)
    endings = observed.endings_of(group)
    if not present:  # it started again in its pods
        pods = [pod for pod in pods if end is None or pod.created_at is None or pod.created_at <= end]
        after = end_after(entry, observed)
        ending = after and ending_in_place(observed, status, group, after)
        endings = [ending] if ending else []
    hosts = status.topology.hosts if status.topology is not None else len(pods)
    report = _newest_report(entry, observed, endings)
    if book.process is None:
        if entry.ended_at is None and observed.run.status.waits_in_queue and not status.waits_in_queue:
            # Admitted since the last reconcile, at the latest when its first pod was created.
            book.advance(
                min([observed.now, *(pod.created_at for pod in pods if pod.created_at is not None)]), "capacity_wait"
            )
        _count_start(pods, hosts, book)
    if report is not None:
        book.add_report(*report)
    if end is None:
        if book.process is None:
            _count_waiting(pods, hosts, book, observed.now, queued=status.waits_in_queue)
        return entry
    if present and not all(pod.over for pod in pods):
        return entry  # they may still save, and report it when they end
    reported_before = book.process is not None
    unseen = book.advance(end, "other" if reported_before else "startup")
    update: dict[str, object] = {"seconds": book.close(), "unseen_seconds": unseen / 1000 if reported_before else 0.0}
    # A process group does some more steps after the preemption notice. Its termination reports have the last step.
    done = [ending.report.step for ending in endings if ending.report is not None]
    if entry.from_step is not None and done:
        update["to_step"] = max(entry.to_step or 0, *done)
    return entry.but(**update)


def _newest_report(
    entry: HistoryEntry, observed: Observed, endings: Sequence[PodEnding]
) -> tuple[GoodputSeconds, datetime] | None:
    """The newest report about the time of a process group, and its time."""
    living = observed.report_of(_group(entry))
    own = living if living and living.in_place == entry.in_place else None
    believed = [
        (at, report.seconds)
        for report in (own, *(ending.report for ending in endings))
        if report and report.seconds and (at := moment(report.time))
        if max(report.seconds.model_dump().values()) < _LONGEST_LIFE_SECONDS
    ]
    if not believed:
        return None
    at, seconds = max(believed, key=lambda one: one[0])
    return seconds, min(at, observed.now)


def _count_start(pods: Sequence[PodView], hosts: int, book: _Book) -> None:
    """Count until all pods existed, and until all had a node."""
    if created := [pod.created_at for pod in pods if pod.created_at]:
        book.advance(max(created), "operator_delay")
    if _scheduled(pods, hosts):
        book.advance(max(pod.scheduled_at for pod in pods if pod.scheduled_at), "capacity_wait")


def _count_waiting(pods: Sequence[PodView], hosts: int, book: _Book, now: datetime, *, queued: bool) -> None:
    """Count the wait of a process group without a process until now."""
    if not pods:
        book.advance(now, "capacity_wait" if queued else "operator_delay")
    elif not _scheduled(pods, hosts):
        book.advance(now, "capacity_wait")
    elif not any(pod.running for pod in pods):
        book.advance(now, "startup")


def _count_between(before: TrainingRunStatus, status: TrainingRunStatus, book: _Book, now: datetime) -> None:
    """Count the wait of a run without a process group until now."""
    if status.phase == "Succeeded":
        return
    if {"Suspending", "Suspended"} & {
        before.phase,
        status.phase,
    } or before.phase == "Succeeded":  # succeeded before, but got more steps
        # Suspension is in no sum.
        book.suspended += book.take(now)
        return
    stopped = before.holds("Stalled") or status.holds("Stalled")
    book.advance(now, "other" if stopped else "operator_delay")


def _scheduled(pods: Sequence[PodView], hosts: int) -> bool:
    return len(pods) >= max(1, hosts) and all(pod.scheduled_at is not None for pod in pods)


def _shares(weights: dict[str, int], whole: int) -> dict[str, int]:
    """An integer divided in proportion to weights; all of it is ``other`` if all weights are 0."""
    total = sum(weights.values())
    if total == 0:
        return {"other": whole}
    shares = {cause: whole * weight // total for cause, weight in weights.items()}
    shares[max(weights, key=lambda cause: weights[cause])] += whole - sum(shares.values())
    return shares


def _group(entry: HistoryEntry) -> ProcessGroup:
    return ProcessGroup(entry.attempt, entry.restart)


def _milliseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MILLISECOND
