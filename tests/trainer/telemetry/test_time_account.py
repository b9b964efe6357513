"""Every second of a process is counted under exactly one cause."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from halcyon.telemetry.metrics import METRICS
from halcyon.telemetry.time_account import TimeAccount
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
    scene.reporter.stage("saving")
    scene.time.pass_(0.25)
    scene.reporter.stage("training")
    scene.steps(12, 13)
    scene.reporter.stage("leaving")
    scene.time.pass_(4)
    found = scene.reporter.report().seconds
    assert (found.startup, found.join, found.restore, found.compile) == (2, 1, 2, 3)
    assert (found.evaluation, found.save_blocking, found.other) == (7, 4.25, 0)
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
    account.first_step_ends("training", 1.0)
    account.until("training", 3.0)
    account.waited_for_data("training", 3.5, 2.0)
    assert account.until("training", 4.0).data_wait == 2.0
    account.waited_for_data("training", 4.0, 100.0)
    assert account.until("training", 4.0).productive_step == 0


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
                account.stage_ends(stage, now)
                stage = chance.choice(get_args(Stage))
            case 1:
                account.waited_for_data(stage, now, chance.uniform(0, 3))
            case 2:
                account.first_step_ends(stage, now)
            case _:
                found = account.until(stage, now)
                assert found.total == pytest.approx(now - began, abs=0.001 * len(CAUSES))
                assert min(found.milliseconds().values()) >= 0


def test_steps_after_the_checkpoint_to_which_a_run_goes_back_are_lost_work() -> None:
    scene = Scene()
    scene.start()
    scene.steps(1, 11)
    before = scene.reporter.report().seconds
    scene.reporter.stage("restoring")
    scene.time.pass_(4)
    scene.reporter.rolled_back(11, 5, 6, "jump")
    scene.reporter.stage("training")
    found = scene.reporter.report().seconds
    assert (found.productive_step, found.lost_work) == (before.productive_step - 3.0, 3.0), "six steps of 0.5 s"
    assert found.total == before.total + 4
    scene.steps(6, 8)
    scene.reporter.rolled_back(8, 0, 8, "jump again")
    found = scene.reporter.report().seconds
    assert found.productive_step == 0.0, "a return to a checkpoint of an earlier process loses all steps of this one"
    assert found.lost_work == before.productive_step + 1.5
    counters = {cause: seconds for (cause,), seconds in METRIC.read(scene.reporter.observe())}
    assert (counters["productiveStep"], counters["lostWork"]) == (found.lost_work, 0.0), "a counter never falls"


def test_a_long_process_remembers_its_steps_at_growing_distances() -> None:
    account = TimeAccount(0.0)
    account.first_step_ends("training", 0.0)
    for step in range(1, 100_001):
        account.step_ends("training", step, float(step))
    assert len(account._marks) <= 2048
    account.went_back("training", 54_321, 100_000.0)
    found = account.until("training", 100_000.0)
    assert found.productive_step == pytest.approx(54_321, abs=1e-6)
    assert found.lost_work == pytest.approx(100_000 - 54_321, abs=1e-6)
