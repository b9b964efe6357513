"""What a run has used of hardware and money. Pure.

A pod holds its chips from the time at which the scheduler bound it to a node until its last container has ended, or
until now, by the API server's times and the operator's clock. No report of a trainer is read: reports only divide the
time into causes (`goodput`).

`status.spent.countedUntil` is the end of the last count. So a restart of the operator counts no time twice, and the
time in which it was down is counted when it comes back. A pod that held chips at that moment and no longer exists has
held them until newer pods were created; if there are none, until now.
"""

from datetime import UTC, datetime

from halcyon_api.hardware import TABLE
from halcyon_api.status.requests import read_recorded
from halcyon_api.status.run_status import Spending, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.endings import UNKNOWN_TIME
from halcyon_operator.model.untrusted import moment, precise_stamp, text
from halcyon_operator.model.views import Observed, PodView


def spending(observed: Observed) -> Spending | None:
    """What the run has used until now. None: it never had hardware."""
    spec, status = observed.run.spec, observed.run.status
    known = status.spent or Spending()
    if spec is None or status.topology is None:
        return status.spent  # an invalid document has no price; the next valid one counts this time
    since = moment(known.counted_until) or datetime.min.replace(tzinfo=UTC)
    now = max(observed.now, since)
    pods = [*observed.pods, *(observed.probe.pods if observed.probe else ())]
    starts = [(pod, start) for pod in pods if (start := pod.scheduled_at or pod.started_at) is not None]
    seconds = sum(max(0.0, (_end(pod, now) - max(start, since)).total_seconds()) for pod, start in starts)
    gone = known.pods - sum(start <= since for _, start in starts)
    if gone > 0:
        newer = [pod.created_at for pod in pods if pod.created_at and pod.created_at > since]
        seconds += gone * (min([now, *newer]) - since).total_seconds()
    hours = seconds / 3600 * _chips_of_a_pod(spec, status)
    price = spec.accelerator.price_per_chip_hour
    money = known.money if price is None else (known.money or 0.0) + hours * price
    spent = Spending(
        chip_hours=round(known.chip_hours + hours, 6),
        money=None if money is None else round(money, 6),
        pods=sum(start <= now and not pod.over for pod, start in starts),
        counted_until=precise_stamp(now),
    )
    return spent.but(share=_share(spec, spent, status, now))


def _end(pod: PodView, now: datetime) -> datetime:
    """The time until which a pod has held its chips. A pod of which no container ever ran has not held them."""
    if not pod.over:
        return now
    end = pod.finished_at or (pod.ending.at if pod.ending else UNKNOWN_TIME)
    return min(end, now) if end != UNKNOWN_TIME else datetime.min.replace(tzinfo=UTC)


def _chips_of_a_pod(spec: TrainingRunSpec, status: TrainingRunStatus) -> float:
    """Chips of each pod of the present attempt, which keeps its hardware while an edit waits."""
    kind = text(read_recorded(status.in_force or {}).get("accelerator.type"))
    row, topology = spec.accelerator.row, status.topology
    row = TABLE.get(kind, row) if spec.place is None else row
    return 0.0 if topology is None else topology.devices / topology.hosts / row.devices_per_chip


def _share(spec: TrainingRunSpec, spent: Spending, status: TrainingRunStatus, now: datetime) -> float | None:
    """The largest used share of a part of the budget."""
    budget, shares = spec.budget, list[float]()
    if budget is None:
        return None
    if budget.chip_hours is not None:
        shares.append(spent.chip_hours / budget.chip_hours)
    if budget.money is not None:
        shares.append((spent.money or 0.0) / budget.money)
    until, started = moment(budget.until), moment(status.started_at)
    if until is not None and started is not None:
        whole = (until - started).total_seconds()
        shares.append(1.0 if whole <= 0 else max(0.0, (now - started).total_seconds() / whole))
    return round(max(shares), 4) if shares else None
