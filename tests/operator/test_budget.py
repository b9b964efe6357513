"""A run whose budget is used up saves, releases its hardware and is suspended; a raised budget goes on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.reading import parse_run
from halcyon_api.status.run_status import Spending, TrainingRunStatus
from halcyon_operator.decide.next.budget import until_budget
from halcyon_operator.decide.reconcile import reconcile
from halcyon_operator.decide.record.spending import spending
from halcyon_operator.decide.tell.events import budget_nearly_spent
from halcyon_operator.model.views import ProcessGroup
from halcyon_operator.observe.trainers import parse_report
from tests.api.documents import document
from tests.operator.builders import at, disrupted, ended, head, jobset, observed, pod, report, rfc, run
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


def lie(cluster: SimulatedCluster, **said: Any) -> None:
    """The answer of a trainer, which the operator reads as any other one."""
    honest = report(step=60 + int(cluster.now)).model_dump(by_alias=True, mode="json", exclude_none=True)
    answer = json.dumps(honest | {"time": rfc(cluster.now), "seconds": {"productiveStep": cluster.now}} | said)
    read = parse_report(answer.encode(), "demo", ProcessGroup(1, 0)).report
    cluster.reports = {} if read is None else {(1, 0): read}


LIES: dict[str, Any] = {
    "no answer": {"stage": 7},
    "a wait for hardware": {"seconds": {"productiveStep": 60.0, "capacityWait": 1e6}},
    "no seconds": {"seconds": {}},
    "endless seconds": {"seconds": {"productiveStep": 1e9}},
    "seconds that are no number": {"seconds": {"productiveStep": float("nan")}},
    "a time to come": {"time": "2030-01-01T00:00:00Z"},
    "a time long ago": {"time": "1970-01-01T00:00:00Z"},
}


@pytest.mark.parametrize("said", LIES.values(), ids=LIES)
def test_no_report_of_a_trainer_changes_what_the_run_has_used(said: dict[str, Any]) -> None:
    cluster = training(accelerator=PRICED, budget={"chipHours": 2.0})
    for minute in range(5, 60, 5):
        cluster.now = minute * 60.0
        lie(cluster, **said)
        cluster.settle()
        assert cluster.status["spent"]["chipHours"] == pytest.approx(2 * cluster.now / 3600, rel=0.05), minute
    assert cluster.status["phase"] == "Running"
    cluster.now = 3600.0
    lie(cluster, **said)
    cluster.settle()
    assert cluster.status["phase"] == "Suspending"


def test_the_time_in_which_the_operator_is_down_counts_once() -> None:
    cluster = training(accelerator=PRICED, budget={"chipHours": 100.0})
    for _ in range(6):
        cluster.now += 600
        cluster._start_operator()
        cluster.settle()
        cluster.settle()
    assert cluster.status["spent"]["chipHours"] == pytest.approx(2 * cluster.now / 3600, abs=0.02)


def test_a_pod_that_ended_while_the_operator_was_down_held_its_chips_until_the_next_pods_were_made() -> None:
    """Evicted in the second minute of an outage of an hour; the hardware came back in minute 50."""
    cluster = training(accelerator=PRICED, budget={"chipHours": 100.0})
    began, used = cluster.now, cluster.status["spent"]["chipHours"]
    cluster.crash()
    cluster.tick()
    cluster.tick()
    fresh = next(thing for place, thing in cluster.api.objects.items() if "/pods/" in place)
    fresh["metadata"]["creationTimestamp"] = rfc(began + 120)
    fresh["status"]["conditions"] = [scheduled(began + 3000)]
    cluster.now = began + 3600
    cluster._start_operator()
    cluster.settle()
    held = (120 + cluster.now - began - 3000) / 3600
    assert cluster.status["spent"]["chipHours"] - used == pytest.approx(2 * held, abs=0.02)


def scheduled(seconds: float) -> dict[str, Any]:
    return {"type": "PodScheduled", "status": "True", "lastTransitionTime": rfc(seconds)}


WAITING = {"containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": "ContainerCreating"}}}]}
OVER = ended(1, 100)
PODS: dict[str, tuple[dict[str, Any], float]] = {
    "without a node": ({"phase": "Pending", "containerStatuses": []}, 0),
    "that pulls its image": ({"phase": "Pending", "conditions": [scheduled(10)], **WAITING}, 190),
    "that runs": ({"conditions": [scheduled(10)]}, 190),
    "that has ended": ({**OVER, "conditions": [scheduled(10)]}, 90),
    "that ends in the operator's future": ({**ended(0, 900), "conditions": [scheduled(10)]}, 190),
    "that the kubelet rejected": ({"phase": "Failed", "conditions": [scheduled(10)], "containerStatuses": []}, 0),
    "whose node was lost": (
        {"phase": "Failed", "conditions": [scheduled(10), *disrupted(70, "DeletionByPodGC")["conditions"]]},
        60,
    ),
}
TOPOLOGY = {"slices": 2, "hosts": 2, "devices": 8, "mesh": {"replica": 2, "data": 4, "fsdp": 1, "tensor": 1}}


def seen(*pods: dict[str, Any], **more: Any) -> Any:
    """An observation of pods with four chips each."""
    status = {"attempt": 1, "jobSetUid": "jobset-1", "startedAt": rfc(0), "topology": TOPOLOGY} | more
    return observed(run(status, accelerator={"type": "cpu", "topology": "1x4"}), jobsets=[jobset()], pods=list(pods))


@pytest.mark.parametrize(("status", "seconds"), PODS.values(), ids=PODS)
def test_a_pod_holds_its_chips_from_its_node_to_the_end_of_its_containers(
    status: dict[str, Any], seconds: float
) -> None:
    spent = spending(replace(seen(pod(**status)), now=at(200)))
    assert spent is not None
    assert spent.chip_hours == pytest.approx(4 * seconds / 3600, abs=1e-6)
    again = spending(replace(seen(pod(**status), spent=spent.model_dump(by_alias=True)), now=at(200)))
    assert again is not None
    assert again.chip_hours == spent.chip_hours


def test_the_chips_are_those_that_the_attempt_holds() -> None:
    """While an edit waits, the document already has another type: v7x has two devices on a chip."""
    held = pod(conditions=[scheduled(0)])
    paired = spending(replace(seen(held, inForce={"accelerator.type": '"v7x"'}), now=at(3600)))
    single = spending(replace(seen(held, inForce={"accelerator.type": "[]"}), now=at(3600)))
    assert (paired and paired.chip_hours, single and single.chip_hours) == (2.0, 4.0)
    watched = seen(held)
    invalid = replace(watched, run=replace(watched.run, spec=None))
    assert spending(replace(invalid, now=at(3600))) is None, "it is counted when the document is valid again"


def test_a_clock_that_was_set_back_counts_no_time_twice() -> None:
    held = pod(conditions=[scheduled(0)])
    spent = spending(replace(seen(held), now=at(3600)))
    assert spent is not None
    early = spending(replace(seen(held, spent=spent.model_dump(by_alias=True)), now=at(1800)))
    assert early is not None
    assert (early.chip_hours, early.counted_until) == (4.0, "2026-11-20T13:00:00.000Z")


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
    late = SimulatedCluster(run(budget={"until": "2021-01-01T00:00:00+00:00"}))
    late.settle()
    assert (ready(late)[1], late.status.get("jobSetName")) == ("BudgetSpent", None)


def test_the_operator_wakes_up_at_the_time_of_the_budget() -> None:
    assert until_budget(observed(run(budget={"until": rfc(7)}), now=at(0))) == 7
    assert until_budget(observed(run(budget={"until": rfc(7)}), now=at(8))) is None
    soon = reconcile(observed(run(budget={"until": rfc(1)})), at(0)).requeue_after
    assert soon is not None
    assert soon <= 1


@pytest.mark.parametrize(
    ("accelerator", "budget", "said"),
    [
        ({}, {}, "set chipHours, money or until, or leave budget out"),
        ({}, {"money": 5}, "budget.money needs accelerator.pricePerChipHour"),
        ({}, {"until": "tomorrow"}, "until must be a time of 2020 to 2199 with its zone"),
        ({}, {"until": "2026-02-31T00:00:00Z"}, "until must be a time of 2020 to 2199 with its zone"),
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
    found = [*budget_nearly_spent(was, now)]
    assert len(found) == warned
    assert all(event.message.startswith(f"{after:.0%} of spec.budget is used") for event in found)
