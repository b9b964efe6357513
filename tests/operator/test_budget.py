"""A run whose budget is used up saves, releases its hardware and is suspended; a raised budget goes on."""

from __future__ import annotations

import re
from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.reading import parse_run
from halcyon_api.status.run_status import Spending, TrainingRunStatus
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.budget import until_budget
from halcyon_operator.decide.tell.events import budget_nearly_spent
from tests.api.documents import document
from tests.operator.builders import at, head, observed, report, rfc, run
from tests.operator.simulation import SimulatedCluster
from tests.operator.test_suspension import ready, training

PRICED = {"type": "cpu", "topology": "1x2", "pricePerChipHour": 2.0}
"""Two chips."""


def train_for(cluster: SimulatedCluster, seconds: float, step: int) -> None:
    """The processes train for this time, and report it."""
    before = cluster.reports[1, 0]
    cluster.now += seconds
    done = (before.seconds.total if before.seconds is not None else 0.0) + seconds
    reported = {"time": rfc(cluster.now), "seconds": {"productiveStep": done}}
    cluster.reports[1, 0] = report(step=step, **reported)
    cluster.settle()


def saved(cluster: SimulatedCluster, step: int) -> None:
    cluster.head = head(step)
    cluster.settle()


def test_a_run_is_suspended_when_its_chip_hours_are_used_and_a_raised_budget_goes_on() -> None:
    cluster = training(accelerator=PRICED, budget={"chipHours": 2.0})
    train_for(cluster, 1800, 60)
    assert cluster.status["spent"]["chipHours"] == pytest.approx(1.0, rel=0.05)
    assert (cluster.status["phase"], cluster.status["spent"]["share"]) == ("Running", pytest.approx(0.5, rel=0.05))
    train_for(cluster, 1400, 70)
    assert (cluster.status["phase"], cluster.status["spent"]["share"]) == ("Running", pytest.approx(0.89, rel=0.05))
    train_for(cluster, 600, 80)
    assert (cluster.status["phase"], cluster.jobset is not None) == ("Suspending", True), "it saves first"
    saved(cluster, 80)
    phase, reason, message = ready(cluster)
    assert (phase, reason, cluster.jobset) == ("Suspended", "BudgetSpent", None)
    assert re.fullmatch(
        r"spec\.budget\.chipHours: 2\.\d of 2\.0 chip-hours are used; suspended at step 80; raise spec\.budget to go on",
        message,
    )
    used = cluster.status["spent"]["chipHours"]
    cluster.now += 7200  # suspended time costs nothing
    cluster.settle()
    assert cluster.status["spent"]["chipHours"] == used
    cluster.edit(budget={"chipHours": 20.0})
    cluster.settle()
    assert (cluster.status["attempt"], cluster.status["restarts"]["resumed"]) == (2, 1)


def test_money_is_chip_hours_times_their_price() -> None:
    cluster = training(accelerator=PRICED, budget={"money": 3.0})
    train_for(cluster, 1800, 60)
    assert cluster.status["spent"]["money"] == pytest.approx(2.0, rel=0.05)
    train_for(cluster, 1800, 70)
    saved(cluster, 70)
    assert ready(cluster)[1] == "BudgetSpent"
    assert ready(cluster)[2].startswith("spec.budget.money: 4.0")


def test_a_run_ends_at_its_time_and_a_run_that_begins_later_never_starts() -> None:
    cluster = training(budget={"until": "2100-01-01T00:00:00Z"})
    cluster.edit(budget={"until": rfc(cluster.now + 3600)})
    cluster.settle()
    assert cluster.status["phase"] == "Running"
    cluster.now += 3601
    cluster.settle()
    saved(cluster, 50)
    assert ready(cluster)[:2] == ("Suspended", "BudgetSpent")
    late = SimulatedCluster(run(budget={"until": "2001-01-01T00:00:00+00:00"}))
    late.settle()
    assert (ready(late)[1], late.status.get("jobSetName")) == ("BudgetSpent", None)


def test_the_operator_wakes_up_at_the_time_of_the_budget() -> None:
    assert until_budget(observed(run(budget={"until": rfc(7)})), at(0)) == 7
    assert until_budget(observed(run(budget={"until": rfc(7)})), at(8)) is None
    assert reconcile(observed(run(budget={"until": rfc(1)})), at(0)).requeue_after <= 1


@pytest.mark.parametrize(
    ("accelerator", "budget", "said"),
    [
        ({}, {}, "set chipHours, money or until, or leave budget out"),
        ({}, {"money": 5}, "budget.money needs accelerator.pricePerChipHour"),
        ({}, {"until": "tomorrow"}, "until must be a time with its zone"),
        ({}, {"until": "2026-02-31T00:00:00Z"}, "until must be a time with its zone"),
        ({}, {"chipHours": 0}, "chipHours"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(
    accelerator: dict[str, Any], budget: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRun, match=re.escape(said)):
        parse_run(document(spec__budget=budget, **accelerator))


@pytest.mark.parametrize(("before", "after", "warned"), [(None, 0.5, 0), (0.79, 0.8, 1), (0.8, 0.9, 0), (None, 1.2, 1)])
def test_an_event_warns_once_when_four_fifths_are_used(before: float | None, after: float, warned: int) -> None:
    was, now = (TrainingRunStatus(spent=Spending(share=share)) for share in (before, after))
    found = budget_nearly_spent(was, now)
    assert len(found) == warned
    assert all(event.message.startswith(f"{after:.0%} of spec.budget is used") for event in found)
