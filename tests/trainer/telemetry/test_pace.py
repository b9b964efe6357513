"""Speed and step durations, from the times at which steps end."""

from __future__ import annotations

import pytest

from halcyon.telemetry.pace import STEP_SECONDS_BUCKETS, Pace


def test_the_first_step_gives_no_speed_and_no_duration() -> None:
    pace = Pace()
    assert (pace.last_ended, pace.steps_per_second) == (None, None)
    pace.step_ended(100.0, 7)
    assert (pace.last_ended, pace.steps_per_second) == (100.0, None)
    assert sum(pace.buckets) == 0


def test_speed_is_of_the_last_steps() -> None:
    pace = Pace()
    for step in range(10):
        pace.step_ended(step * 10.0, step)
    assert pace.steps_per_second == pytest.approx(0.1)
    for step in range(10, 100):
        pace.step_ended(90.0 + (step - 9) * 0.5, step)
    assert pace.steps_per_second == pytest.approx(2.0)


def test_several_steps_at_once_share_the_time() -> None:
    pace = Pace()
    pace.step_ended(0.0, 10)
    pace.step_ended(8.0, 14)
    assert pace.steps_per_second == 0.5
    assert (sum(pace.buckets), pace.sum_seconds) == (4, 8.0)


def test_the_histogram_counts_by_upper_bounds() -> None:
    pace = Pace()
    now = 0.0
    pace.step_ended(now, 0)
    durations = [0.005, 0.01, 0.011, 1.0, 250.0, 251.0]
    for step, seconds in enumerate(durations, 1):
        now += seconds
        pace.step_ended(now, step)
    buckets = dict(zip((*STEP_SECONDS_BUCKETS, "more"), pace.buckets, strict=True))
    assert {bound: count for bound, count in buckets.items() if count} == {0.01: 2, 0.025: 1, 1.0: 1, 250.0: 1, "more": 1}
    assert pace.sum_seconds == pytest.approx(sum(durations))


def test_steps_at_the_same_moment_have_no_speed() -> None:
    pace = Pace()
    pace.step_ended(1.0, 1)
    pace.step_ended(1.0, 2)
    assert pace.steps_per_second is None


def test_the_share_of_waiting_is_that_of_the_last_steps_without_the_first() -> None:
    pace = Pace()
    assert pace.wait_ratio is None
    pace.step_ended(0.0, 0, wait_seconds=1000.0)
    assert pace.wait_ratio is None
    pace.step_ended(10.0, 1, wait_seconds=4.0)
    pace.step_ended(20.0, 2, wait_seconds=1.0)
    assert pace.wait_ratio == pytest.approx(0.25)
    for step in range(3, 100):
        pace.step_ended(step * 10.0, step, wait_seconds=1.0)
    assert pace.wait_ratio == pytest.approx(0.1)
