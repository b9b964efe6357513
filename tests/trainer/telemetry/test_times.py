"""The times of a process: every second under exactly one cause, and the speed and the durations of steps from the times
of their ends.
"""

from __future__ import annotations

import random
from typing import get_args

import pytest

from halcyon.telemetry.metrics import METRICS
from halcyon.telemetry.times import STEP_SECONDS_BUCKETS, Durations, Pace, TimeAccount
from halcyon_api.status.goodput import CAUSES
from halcyon_api.status.progress import Stage
from tests.trainer.telemetry.fakes import Scene, step_report

METRIC = next(one for one in METRICS if one.name == "halcyon_trainer_seconds_total")


def test_the_seconds_of_a_process_are_split_by_its_stages() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 11)
    scene.reporter.stage("evaluating")
    scene.time.pass_(7)
    scene.reporter.stage("auditing")
    scene.time.pass_(3)
    scene.reporter.stage("saving")
    scene.time.pass_(0.25)
    scene.reporter.stage("training")
    scene.steps(12, 13)
    scene.reporter.stage("leaving")
    scene.time.pass_(4)
    found = scene.reporter.report().seconds
    assert (found.startup, found.join, found.restore, found.compile) == (2, 1, 2, 3)
    assert (found.evaluation, found.audit, found.save_blocking, found.other) == (7, 3, 4.25, 0)
    assert found.productive_step == 6, "ten steps of 0.5 s after the first, and two more"


def test_a_wait_for_a_batch_is_no_step() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 3)
    scene.time.pass_(2)
    scene.reporter.waited_for_batch(1.5)
    scene.time.pass_(1)
    scene.reporter.step_done(step_report(4))
    found = scene.reporter.report().seconds
    assert (found.data_wait, found.productive_step) == (1.5, 1 + 0.5 + 1)


def test_a_wait_counts_at_most_the_time_that_is_not_counted_yet() -> None:
    """A report in the middle of the wait has already counted its first part."""
    account = TimeAccount(0.0)
    account = account.until("training", 1.0, stepped=True)
    account = account.until("training", 3.0)
    account = account.until("training", 3.5, waited=2.0)
    assert account.until("training", 4.0).seconds.data_wait == 2.0
    account = account.until("training", 4.0, waited=100.0)
    assert account.until("training", 4.0).seconds.productive_step == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_sum_of_all_causes_is_the_age_of_the_process(seed: int) -> None:
    chance = random.Random(seed)
    now = began = chance.uniform(0, 1e6)
    account = TimeAccount(began)
    stage: Stage = "starting"
    for _ in range(500):
        now += chance.expovariate(1)
        match chance.randrange(4):
            case 0:
                account = account.until(stage, now)
                stage = chance.choice(get_args(Stage))
            case 1:
                account = account.until(stage, now, waited=chance.uniform(0, 3))
            case 2:
                account = account.until(stage, now, stepped=True)
            case _:
                found = account.until(stage, now).seconds
                assert found.total == pytest.approx(now - began, abs=0.001 * len(CAUSES))
                assert min(found.milliseconds().values()) >= 0


def test_steps_after_the_checkpoint_to_which_a_run_goes_back_are_lost_work() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 11)
    before = scene.reporter.report().seconds
    scene.reporter.stage("restoring")
    scene.time.pass_(4)
    scene.reporter.event("rolledBack", step=11, to_step=5, batches=6, reason="jump")
    scene.reporter.stage("training")
    found = scene.reporter.report().seconds
    assert (found.productive_step, found.lost_work) == (before.productive_step - 3.0, 3.0), "six steps of 0.5 s"
    assert found.total == before.total + 4
    scene.steps(6, 8)
    scene.reporter.event("rolledBack", step=8, to_step=0, batches=8, reason="jump again")
    found = scene.reporter.report().seconds
    assert found.productive_step == 0.0, "a return to a checkpoint of an earlier process loses all steps of this one"
    assert found.lost_work == before.productive_step + 1.5
    counters = {cause: seconds for (cause,), seconds in METRIC.samples(scene.reporter.observe())}
    assert (counters["productiveStep"], counters["lostWork"]) == (found.lost_work, 0.0), "a counter never falls"


def test_a_long_process_remembers_its_steps_at_growing_distances() -> None:
    account = TimeAccount(0.0)
    account = account.until("training", 0.0, stepped=True)
    for step in range(1, 100_001):
        account = account.until("training", float(step), step=step)
    assert len(account.marks) <= 256
    account = account.went_back("training", 54_321, 100_000.0)
    found = account.until("training", 100_000.0).seconds
    assert found.productive_step == pytest.approx(54_321, abs=1e-6)
    assert found.lost_work == pytest.approx(100_000 - 54_321, abs=1e-6)


def test_the_first_step_gives_no_speed_and_no_duration() -> None:
    pace = Pace()
    assert (pace.last_ended, pace.steps_per_second) == (None, None)
    pace = pace.step_ended(100.0, 7)
    assert (pace.last_ended, pace.steps_per_second) == (100.0, None)
    assert sum(pace.buckets) == 0


def test_speed_is_of_the_last_steps() -> None:
    pace = Pace()
    for step in range(10):
        pace = pace.step_ended(step * 10.0, step)
    assert pace.steps_per_second == pytest.approx(0.1)
    for step in range(10, 100):
        pace = pace.step_ended(90.0 + (step - 9) * 0.5, step)
    assert pace.steps_per_second == pytest.approx(2.0)


def test_evaluations_and_saves_between_steps_are_no_part_of_the_speed() -> None:
    pace = Pace()
    for step in range(5):
        pace = pace.step_ended(step * 1.0, step)
    pace = pace.step_ended(25.0, 5, since=24.0)  # 20 s of something else
    assert (pace.steps_per_second, pace.sum_seconds, pace.last_ended) == (1.0, 5.0, 25.0)
    assert dict(zip(STEP_SECONDS_BUCKETS, pace.buckets, strict=False))[1.0] == 5


def test_several_steps_at_once_share_the_time() -> None:
    pace = Pace()
    pace = pace.step_ended(0.0, 10)
    pace = pace.step_ended(8.0, 14)
    assert pace.steps_per_second == 0.5
    assert (sum(pace.buckets), pace.sum_seconds) == (4, 8.0)


def test_the_histogram_counts_by_upper_bounds() -> None:
    pace = Pace()
    now = 0.0
    pace = pace.step_ended(now, 0)
    durations = [0.005, 0.01, 0.011, 1.0, 250.0, 251.0]
    for step, seconds in enumerate(durations, 1):
        now += seconds
        pace = pace.step_ended(now, step)
    buckets = dict(zip((*STEP_SECONDS_BUCKETS, "more"), pace.buckets, strict=True))
    assert {bound: count for bound, count in buckets.items() if count} == {
        0.01: 2,
        0.025: 1,
        1.0: 1,
        250.0: 1,
        "more": 1,
    }
    assert pace.sum_seconds == pytest.approx(sum(durations))


def test_steps_at_the_same_moment_have_no_speed() -> None:
    pace = Pace()
    pace = pace.step_ended(1.0, 1)
    pace = pace.step_ended(1.0, 2)
    assert pace.steps_per_second is None


def test_the_share_of_waiting_is_that_of_the_last_steps_without_the_first() -> None:
    pace = Pace()
    assert pace.wait_ratio is None
    pace = pace.step_ended(0.0, 0, wait_seconds=1000.0)
    assert pace.wait_ratio is None
    pace = pace.step_ended(10.0, 1, wait_seconds=4.0)
    pace = pace.step_ended(20.0, 2, wait_seconds=1.0)
    assert pace.wait_ratio == pytest.approx(0.25)
    for step in range(3, 100):
        pace = pace.step_ended(step * 10.0, step, wait_seconds=1.0)
    assert pace.wait_ratio == pytest.approx(0.1)


def test_the_number_of_remembered_durations_is_bounded() -> None:
    durations = Durations()
    for done in range(1, 100_000, 100):
        durations = durations.step_ended((done - 1) // 1000, 1.0, 100)
    assert max(len(known) for size in range(100) for known in durations.of({size: None})) == 512
    assert durations.of({99: None}) == ((),), (
        "with too many sizes the last ones stay unknown, with the limit of a compilation"
    )


def test_steps_that_end_together_share_their_time() -> None:
    durations = Durations().step_ended("size", 9.0).step_ended("size", 8.0, 4)
    assert durations.of({"size": None}) == ((2.0, 2.0, 2.0, 2.0),)
