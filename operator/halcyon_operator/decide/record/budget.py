"""What a run has used, and the end of its budget. Pure.

A run uses its chips in every second that is counted for a process group, except while it waits for hardware or for the
operator (`halcyon_api.status.goodput`). When a part of `spec.budget` is used up, the run counts as suspended: it saves,
its hardware is released, and it goes on when the budget is raised.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from halcyon_api.hardware import TABLE
from halcyon_api.status.goodput import Goodput
from halcyon_api.status.run_status import Spending, TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.untrusted import moment
from halcyon_operator.model.views import Observed

_WITHOUT_HARDWARE = ("capacity_wait", "operator_delay")


def within_budget(observed: Observed, now: datetime) -> Observed:
    """The observation, with a run that is suspended if its budget is used up."""
    spec = observed.run.spec
    reason = "" if spec is None else budget_end(spec, observed.run.status, now)
    if spec is None or not reason:
        return observed
    run = replace(observed.run, spec=spec.model_copy(update={"suspend": True}), budget_spent=reason)
    return replace(observed, run=run)


def budget_end(spec: TrainingRunSpec, status: TrainingRunStatus, now: datetime) -> str:
    """Which part of the budget is used up, as a clause; empty: none."""
    budget, spent = spec.budget, status.spent or Spending()
    if budget is None:
        return ""
    if budget.chip_hours is not None and spent.chip_hours >= budget.chip_hours:
        return f"spec.budget.chipHours: {spent.chip_hours:,.1f} of {budget.chip_hours:,.1f} chip-hours are used"
    if budget.money is not None and (spent.money or 0.0) >= budget.money:
        return f"spec.budget.money: {spent.money or 0.0:,.2f} of {budget.money:,.2f} is used"
    until = moment(budget.until)
    return f"spec.budget.until: it is {budget.until}" if until is not None and now >= until else ""


def until_budget(observed: Observed, now: datetime) -> float | None:
    """Seconds until `spec.budget.until`. None: there is no such time, or it has come."""
    budget = None if observed.run.spec is None else observed.run.spec.budget
    until = None if budget is None else moment(budget.until)
    return None if until is None or until <= now else (until - now).total_seconds()


def with_spending(observed: Observed, status: TrainingRunStatus, now: datetime) -> TrainingRunStatus:
    """The status with what the run has used, from the time that was counted since the last reconcile."""
    spec, before = observed.run.spec, observed.run.status
    held = max(0.0, _held_seconds(status.goodput) - _held_seconds(before.goodput))
    known = before.spent or Spending()
    if spec is None or status.topology is None or status.goodput is None:
        return status.model_copy(update={"spent": before.spent})
    hours = held / 3600 * status.topology.devices / TABLE[spec.accelerator.type].devices_per_chip
    price = spec.accelerator.price_per_chip_hour
    money = known.money if price is None else (known.money or 0.0) + hours * price
    spent = Spending(chip_hours=round(known.chip_hours + hours, 6), money=None if money is None else round(money, 6))
    return status.model_copy(update={"spent": spent.model_copy(update={"share": _share(spec, spent, status, now)})})


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
    return round(max(shares), 4)


def _held_seconds(goodput: Goodput | None) -> float:
    if goodput is None:
        return 0.0
    return goodput.seconds.total - sum(getattr(goodput.seconds, cause) for cause in _WITHOUT_HARDWARE)
