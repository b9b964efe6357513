"""Goodput: every second has exactly one cause, in cases computed by hand and in random runs with every kind of
event.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from halcyon_api.accounts import divide
from halcyon_api.status.goodput import CAUSES, GoodputSeconds
from halcyon_api.status.run_status import MAX_HISTORY, HistoryEntry, TrainingRunStatus, parse_status
from halcyon_operator.decide.record.goodput import account
from halcyon_operator.decide.record.history import with_end, with_group, with_report
from halcyon_operator.model.untrusted import moment
from halcyon_operator.model.views import ProcessGroup
from halcyon_operator.run.metrics import Metrics
from tests.operator.builders import at, ended, observed, pod, report, run, termination

BARE = run()


def precise(seconds: float) -> str:
    return at(seconds).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def a_pod(group: ProcessGroup, created: float, scheduled: float | None, **status: Any) -> dict[str, Any]:
    document = pod(*group, **status)
    document["metadata"]["creationTimestamp"] = precise(created)
    bound = {"type": "PodScheduled", "status": "False" if scheduled is None else "True"}
    if scheduled is not None:
        bound["lastTransitionTime"] = precise(scheduled)
    document["status"]["conditions"] = [bound]
    return document


@dataclass
class AccountedRun:
    """A run of one process, and the accounts of an operator that observes it now and then."""

    status: TrainingRunStatus = field(
        default_factory=lambda: parse_status(
            {
                "startedAt": precise(0),
                "topology": {"slices": 1, "hosts": 1, "devices": 1, "mesh": {"data": 1}},
                "attempt": 1,
            }
        )
    )
    now: float = 0.0

    def reconcile(self, **seen: Any) -> GoodputSeconds:
        seen_all = observed(BARE, **seen)
        seen_all = replace(seen_all, run=replace(seen_all.run, status=self.status))
        self.status = account(replace(seen_all, now=at(self.now)), self.status)
        assert self.status.goodput is not None
        goodput = self.status.goodput
        until = moment(goodput.counted_until)
        assert until is not None
        counted = (until - at(0)).total_seconds()
        assert goodput.seconds.total == pytest.approx(goodput.wall_seconds, abs=1e-6)
        assert goodput.wall_seconds + goodput.suspended_seconds == pytest.approx(counted, abs=1e-6), (
            "a second was lost, or counted twice"
        )
        assert counted <= self.now + 1e-6
        return goodput.seconds

    def begin(self, group: ProcessGroup) -> None:
        self.status = with_group(self.status, group, at(self.now))

    def hear(self, group: ProcessGroup, began: float, step: int, resumed: int, **seconds: float) -> Any:
        reported = report(
            *group,
            step=step,
            resumed=resumed,
            startedAt=precise(began),
            time=precise(self.now),
            seconds=GoodputSeconds(**seconds).document(),
        )
        self.status = with_report(self.status, group, reported).model_copy(update={"progress": reported.progress})
        return reported

    def end(self, group: ProcessGroup, cause: Any, step: int | None = None) -> None:
        self.status = with_end(self.status, group, cause, "", at(self.now), step)


def test_the_seconds_of_a_start_are_split_by_its_cause() -> None:
    """10 s without pods, 20 s without a node, 5 s for container and imports; then the process reports its own
    seconds.
    """
    story = AccountedRun()
    story.begin(ProcessGroup(1, 0))
    story.now = 10
    assert story.reconcile() == GoodputSeconds(operator_delay=10)
    story.now = 25
    assert story.reconcile(pods=[a_pod((1, 0), 10, None)]) == GoodputSeconds(operator_delay=10, capacity_wait=15)
    story.now = 33
    waiting = a_pod((1, 0), 10, 30, containerStatuses=[])
    assert story.reconcile(pods=[waiting]) == GoodputSeconds(operator_delay=10, capacity_wait=20, startup=3)
    story.now = 36
    alive = a_pod((1, 0), 10, 30)
    assert story.reconcile(pods=[alive]).total == 33, "it runs and has not answered, so its seconds are not known yet"
    story.now = 50
    reported = story.hear(ProcessGroup(1, 0), 34, 3, 0, startup=1, join=2, restore=3, compile=4, productive_step=6)
    expected = GoodputSeconds(
        operator_delay=10, capacity_wait=20, startup=5, join=2, restore=3, compile=4, productive_step=6
    )
    assert story.reconcile(pods=[alive], report=reported) == expected
    assert story.reconcile(pods=[alive], report=reported) == expected, "the same observation must count only once"
    assert story.status.goodput is not None
    assert story.status.goodput.ratio == 0.12


def test_a_process_that_goes_back_moves_the_time_of_its_lost_steps() -> None:
    """20 s of steps were counted as productive; then the process goes back over 15 of them, trains 4 s more, and
    restores for 1 s.
    """
    story = AccountedRun()
    group = ProcessGroup(1, 0)
    story.begin(group)
    story.now = 20
    alive = a_pod((1, 0), 0, 0)
    assert story.reconcile(pods=[alive], report=story.hear(group, 0, 20, 0, productive_step=20)).productive_step == 20
    story.now = 25
    found = story.reconcile(pods=[alive], report=story.hear(group, 0, 9, 0, productive_step=9, lost_work=15, restore=1))
    assert found == GoodputSeconds(productive_step=9, lost_work=15, restore=1)
    story.now = 27
    found = story.reconcile(
        pods=[alive], report=story.hear(group, 0, 11, 0, productive_step=11, lost_work=15, restore=1)
    )
    assert found == GoodputSeconds(productive_step=11, lost_work=15, restore=1)


def test_the_last_report_counts_seconds_after_the_eviction() -> None:
    """An evicted process saves for 4 s: its last report has these seconds, although the end counts from the
    eviction.
    """
    story = AccountedRun()
    story.begin(ProcessGroup(1, 0))
    story.now = 20
    alive = a_pod((1, 0), 0, 0)
    story.reconcile(pods=[alive], report=story.hear(ProcessGroup(1, 0), 0, 10, 0, productive_step=20))
    story.end(ProcessGroup(1, 0), "preempted")
    story.now = 24
    story.reconcile(pods=[alive])
    assert story.status.history[0].seconds is None, "the process still saves"
    ending = termination(
        "preempted",
        42,
        step=11,
        time=precise(24),
        seconds=GoodputSeconds(productive_step=21, save_blocking=3).document(),
    )
    gone = a_pod((1, 0), 0, 0, **ended(42, 24, ending))
    story.now = 26
    assert story.reconcile(pods=[gone]) == GoodputSeconds(productive_step=21, save_blocking=3, operator_delay=2)
    assert story.status.history[0].to_step == 11, "one step more than it had reported before the eviction"
    assert story.status.history[0].seconds == GoodputSeconds(productive_step=21, save_blocking=3)


CASES: dict[str, tuple[list[dict[str, Any]], dict[str, float], int]] = {
    "only an unfinished step lost": (
        [{"fromStep": 0, "toStep": 10}, {"fromStep": 10}],
        {"productive_step": 100, "lost_work": 8},
        0,
    ),
    "half of it lost": ([{"fromStep": 0, "toStep": 10}, {"fromStep": 5}], {"productive_step": 50, "lost_work": 58}, 5),
    "all of it lost": ([{"fromStep": 4, "toStep": 14}, {"fromStep": 2}], {"lost_work": 108}, 10),
    "it trained on without a report": (
        [{"fromStep": 0, "toStep": 100}, {"fromStep": 104}],
        {"productive_step": 104, "other": 4},
        0,
    ),
    "it trained on for long without a report": (
        [{"fromStep": 0, "toStep": 10}, {"fromStep": 500}],
        {"productive_step": 108},
        0,
    ),
    "no later process group yet": ([{"fromStep": 0, "toStep": 10}], {"productive_step": 100, "other": 8}, 0),
    "the next one ended before its first step": (
        [{"fromStep": 0, "toStep": 10}, {"toStep": None}, {"fromStep": 5}],
        {"productive_step": 50, "lost_work": 58},
        5,
    ),
    "a later one fell back further": (
        [{"fromStep": 0, "toStep": 10}, {"fromStep": 10, "toStep": 12}, {"fromStep": 5}],
        {"productive_step": 50, "lost_work": 58},
        5,
    ),
    "it never stepped": ([{}, {"fromStep": 0}], {"productive_step": 100, "other": 8}, 0),
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_lost_work_matches_cases_computed_by_hand(case: str) -> None:
    """A process group with 100 s of steps that ended 8 s after its last report."""
    entries, expected, lost_steps = CASES[case]
    clusters = [
        HistoryEntry.model_validate({"attempt": 1, "restart": number, "startedAt": precise(0), **entry}, by_alias=True)
        for number, entry in enumerate(entries)
    ]
    first = clusters[0].model_copy(
        update={"seconds": GoodputSeconds(productive_step=100, other=8), "unseen_seconds": 8.0}
    )
    assert divide(first, clusters[1:]) == (GoodputSeconds(**expected), lost_steps)


def test_a_suspension_does_not_lower_the_goodput() -> None:
    story = AccountedRun()
    story.begin(ProcessGroup(1, 0))
    story.now = 20
    story.reconcile(pods=[a_pod((1, 0), 0, 0)], report=story.hear(ProcessGroup(1, 0), 0, 10, 0, productive_step=20))
    story.end(ProcessGroup(1, 0), "suspended")
    story.status = story.status.model_copy(update={"phase": "Suspending"})
    story.now = 30
    story.reconcile()
    story.status = story.status.model_copy(update={"phase": "Suspended"})
    story.now = 9_000
    story.reconcile()
    assert story.status.goodput is not None
    assert (story.status.goodput.ratio, story.status.goodput.suspended_seconds) == (1.0, 8_980)


def test_no_seconds_are_counted_after_a_run_has_finished() -> None:
    story = AccountedRun()
    story.begin(ProcessGroup(1, 0))
    story.now = 20
    story.reconcile(pods=[a_pod((1, 0), 0, 0)], report=story.hear(ProcessGroup(1, 0), 0, 10, 0, productive_step=20))
    story.end(ProcessGroup(1, 0), "completed", 10)
    story.status = story.status.model_copy(update={"phase": "Succeeded", "finished_at": precise(20)})
    found = story.reconcile()
    story.now = 9_000
    assert story.reconcile() == found


@dataclass
class Truth:
    """What a random run really did, second by second."""

    chance: random.Random
    now: float = 0.0
    seconds: Counter[str] = field(default_factory=Counter)

    def spend(self, cause: str, mean: float) -> float:
        span = round(self.chance.expovariate(1 / mean), 3)
        self.seconds[cause] += span
        self.now = round(self.now + span, 3)
        return span


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.variant) for seed in range(2, 6))])
@pytest.mark.parametrize("farewell", [True, False], ids=["each process sends a last report", "half of them are killed"])
def test_every_second_of_a_random_run_has_one_cause(seed: int, farewell: bool) -> None:
    """40 process groups, more than the history holds. The operator observes at random times and is sometimes down.

    If every process sends a last report, every cause is right up to a rounding of a few milliseconds. If processes are
    killed without one, at most the time since their last report is unknown, and every second still has one cause.
    """
    chance = random.Random(seed)
    truth, story, committed, unheard = Truth(chance), AccountedRun(), 0, 0.0
    lost_steps = 0
    for restart in range(MAX_HISTORY + 8):
        group = ProcessGroup(1, restart)
        story.begin(group)
        truth.spend("operator_delay", 3)
        created = truth.now
        if chance.random() < 0.5:
            story.now = truth.now
            story.reconcile(pods=[a_pod(group, created, None)])
        truth.spend("capacity_wait", 20)
        scheduled = truth.now
        if chance.random() < 0.5:
            story.now = truth.now
            story.reconcile(pods=[a_pod(group, created, scheduled, containerStatuses=[])])
        truth.spend("startup", 2)
        began, before = truth.now, truth.seconds.copy()
        for cause in ("startup", "join", "data_wait", "restore", "compile"):
            truth.spend(cause, 2)
        resumed = step = committed
        step_seconds = round(chance.uniform(0.1, 2), 3)
        alive = a_pod(group, created, scheduled)
        heard = began

        def since(before: Counter[str] = before) -> dict[str, float]:
            return {cause: round(truth.seconds[cause] - before[cause], 3) for cause in CAUSES}

        for _ in range(chance.randrange(60)):
            truth.seconds["productive_step"] += step_seconds
            truth.now = round(truth.now + step_seconds, 3)
            step += 1
            if chance.random() < 0.1:
                truth.spend(chance.choice(("save_blocking", "evaluation", "data_wait")), 1)
            if chance.random() < 0.1:
                committed = step
            if chance.random() < 0.3:
                story.now = heard = truth.now
                story.reconcile(pods=[alive], report=story.hear(group, began, step, resumed, **since()))
        story.now = truth.now
        words = farewell or chance.random() < 0.5
        if words:
            message = termination(
                "failed", 1, step=step, time=precise(truth.now), seconds=GoodputSeconds(**since()).document()
            )
            if story.status.history[-1].from_step is None:
                story.hear(group, began, step, resumed, **since())
            story.end(group, "failed", step)
            story.reconcile(pods=[a_pod(group, created, scheduled, **ended(1, truth.now, message))])
        else:
            unheard += truth.now - heard
            story.end(group, "preempted")
            story.reconcile()
        lost = step - committed
        lost_steps += lost
        truth.seconds["productive_step"] -= lost * step_seconds
        truth.seconds["lost_work"] += lost * step_seconds
    group = ProcessGroup(1, MAX_HISTORY + 8)
    story.begin(group)
    found = story.reconcile(report=story.hear(group, story.now, committed, committed))
    assert story.status.goodput is not None
    assert story.status.goodput.wall_seconds == pytest.approx(truth.now, abs=1e-6)
    wrong = sum(abs(getattr(found, cause) - truth.seconds[cause]) for cause in CAUSES)
    assert wrong <= 2 * unheard + 0.01 * MAX_HISTORY
    if farewell:
        assert story.status.goodput.lost_steps == lost_steps
        for cause in CAUSES:
            assert getattr(found, cause) == pytest.approx(truth.seconds[cause], abs=0.01 * MAX_HISTORY), cause


def test_seconds_are_exported_by_run_and_cause_and_never_decrease() -> None:
    story, metrics = AccountedRun(), Metrics()
    story.begin(ProcessGroup(1, 0))
    story.now = 20
    story.reconcile(
        pods=[a_pod((1, 0), 4, 10)], report=story.hear(ProcessGroup(1, 0), 10, 10, 0, productive_step=8, restore=2)
    )
    before = story.status.model_copy(update={"goodput": None})
    metrics.saw_run(("team", "demo"), before, story.status)

    def sample(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"namespace": "team", "run": "demo", **labels})

    assert sample("halcyon_goodput_ratio") == 0.4
    assert sample("halcyon_badput_seconds_total", cause="capacityWait") == 6
    assert sample("halcyon_badput_seconds_total", cause="operatorDelay") == 4
    assert story.status.goodput is not None
    less = story.status.goodput.model_copy(update={"seconds": GoodputSeconds(capacity_wait=1, lost_work=7)})
    metrics.saw_run(("team", "demo"), story.status, story.status.model_copy(update={"goodput": less}))
    assert sample("halcyon_badput_seconds_total", cause="capacityWait") == 6
    assert sample("halcyon_badput_seconds_total", cause="lostWork") == 7
    metrics.lost_run(("team", "demo"))
    assert sample("halcyon_goodput_ratio") is None


def in_place(number: int, at_seconds: float, **more: Any) -> dict[str, Any]:
    return {"number": number, "process": 0, "at": precise(at_seconds), "exitCode": 137, **more}


def again(story: AccountedRun, group: ProcessGroup, number: int) -> None:
    """The process group ends, and starts again in its pods."""
    story.end(group, "failed")
    story.status = with_group(story.status, group, at(story.now), number)


def heard(reported: Any, number: int, *ends: dict[str, Any]) -> Any:
    return type(reported).model_validate(
        {**reported.document(), "inPlace": number, "endsInPlace": list(ends)}, by_alias=True
    )


def test_a_restart_in_place_closes_its_entry_while_its_pods_run() -> None:
    """10 s of steps and 2 s that nobody saw, then 3 s until the new process, which restores for 1 s."""
    story, group, alive = AccountedRun(), ProcessGroup(1, 0), a_pod((1, 0), 0, 0)
    story.begin(group)
    story.now = 10
    story.reconcile(pods=[alive], report=story.hear(group, 0, 10, 0, productive_step=10))
    story.now = 12
    again(story, group, 1)
    assert story.reconcile(pods=[alive]).total == 12, "the new process has not answered"
    first, second = story.status.history
    assert first.seconds == GoodputSeconds(productive_step=10, other=2)
    assert (first.unseen_seconds, second.seconds) == (2, None)
    story.now = 18
    reported = heard(story.hear(group, 15, 12, 10, restore=1, productive_step=2), 1, in_place(1, 12))
    seconds = GoodputSeconds(productive_step=12, startup=3, restore=1, lost_work=2)
    assert story.reconcile(pods=[alive], report=reported) == seconds
    assert story.reconcile(pods=[alive], report=reported) == seconds


def test_the_report_of_a_process_that_ended_in_place_divides_its_last_seconds() -> None:
    story, group, alive = AccountedRun(), ProcessGroup(1, 0), a_pod((1, 0), 0, 0)
    story.begin(group)
    story.now = 4
    story.reconcile(pods=[alive], report=story.hear(group, 0, 4, 0, productive_step=4))
    story.now = 10
    again(story, group, 1)
    left = {"cause": "failed", "exitCode": 1, "message": "", "step": 8, "time": precise(10)}
    left["seconds"] = GoodputSeconds(productive_step=8, save_blocking=2).document()
    story.now = 12
    reported = heard(story.hear(group, 11, 8, 8, restore=1), 1, in_place(1, 10, exitCode=1, report=left))
    expected = GoodputSeconds(productive_step=8, save_blocking=2, startup=1, restore=1)
    assert story.reconcile(pods=[alive], report=reported) == expected
    assert story.status.history[0].to_step == 8


def test_the_wait_for_a_replaced_pod_counts_by_its_cause() -> None:
    """The pod is made 3 s after the end, and has a node 4 s later."""
    story, group, alive = AccountedRun(), ProcessGroup(1, 0), a_pod((1, 0), 0, 0)
    story.begin(group)
    story.now = 10
    story.reconcile(pods=[alive], report=story.hear(group, 0, 10, 0, productive_step=10))
    again(story, group, 1)
    story.now = 20
    reported = heard(story.hear(group, 19, 10, 10, restore=1), 1, in_place(1, 10))
    pods = [alive, a_pod((1, 0, 1), 13, 17)]
    expected = GoodputSeconds(productive_step=10, operator_delay=3, capacity_wait=4, startup=2, restore=1)
    assert story.reconcile(pods=pods, report=reported) == expected


def test_a_report_of_new_processes_does_not_count_for_the_entry_of_the_old_ones() -> None:
    story, group, alive = AccountedRun(), ProcessGroup(1, 0), a_pod((1, 0), 0, 0)
    story.begin(group)
    story.now = 10
    again(story, group, 1)
    again(story, group, 2)
    story.now = 15
    reported = heard(story.hear(group, 12, 1, 0, productive_step=3), 2, in_place(1, 10), in_place(2, 10))
    assert story.reconcile(pods=[alive], report=reported) == GoodputSeconds(startup=12, productive_step=3)
