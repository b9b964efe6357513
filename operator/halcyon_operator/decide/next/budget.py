"""Suspends a run whose `spec.budget` is used up. It saves and releases its hardware; a raised budget goes on. Pure."""

from dataclasses import replace
from datetime import datetime

from halcyon_api.counting import amount
from halcyon_api.status.run_status import Spending
from halcyon_api.training_run import TrainingRunSpec
from halcyon_operator.model.untrusted import moment
from halcyon_operator.model.views import Observed


def within_budget(observed: Observed, spent: Spending | None) -> Observed:
    """The observation, with a run that is suspended if its budget is used up."""
    spec = observed.run.spec
    reason = "" if spec is None else _budget_end(spec, spent or Spending(), observed.now)
    if spec is None or not reason:
        return observed
    run = replace(observed.run, spec=spec.but(suspend=True), budget_spent=reason)
    return replace(observed, run=run)


def _budget_end(spec: TrainingRunSpec, spent: Spending, now: datetime) -> str:
    """Which part of the budget is used up, as a clause; empty: none."""
    budget = spec.budget
    if budget is None:
        return ""
    if budget.chip_hours is not None and spent.chip_hours >= budget.chip_hours:
        used, most = amount(spent.chip_hours, 1), amount(budget.chip_hours, 1)
        return f"spec.budget.chipHours: {used} of {most} chip-hours are used"
    if budget.money is not None and (spent.money or 0.0) >= budget.money:
        return f"spec.budget.money: {amount(spent.money or 0.0, 2)} of {amount(budget.money, 2)} is used"
    until = moment(budget.until)
    return f"spec.budget.until: it is {budget.until}" if until is not None and now >= until else ""


def until_budget(observed: Observed) -> float | None:
    """Seconds until `spec.budget.until`. None: there is no such time, or it has come."""
    budget = None if observed.run.spec is None else observed.run.spec.budget
    until = None if budget is None else moment(budget.until)
    return None if until is None or until <= observed.now else (until - observed.now).total_seconds()
