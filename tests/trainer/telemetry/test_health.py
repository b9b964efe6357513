"""When a trainer counts as healthy: a table, because the verdict is a pure function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import pytest

from halcyon.telemetry.health import FLOOR_SECONDS, judge, step_limit_seconds
from halcyon_api.status.progress import Stage


@pytest.mark.parametrize(
    ("step_seconds", "limit"),
    [
        ([], 60),  # nothing learned yet
        ([0.1] * 100, 60),  # fast steps: the floor
        ([6.0], 60),
        ([6.1], 61),  # ten times the only step
        ([10.0] * 100, 100),
        ([10.0] * 99 + [300.0], 100),  # one in a hundred is above the 99th percentile
        ([10.0] * 98 + [300.0] * 2, 3000),  # two in a hundred are not
        ([10.0] * 9 + [20.0], 200),  # with few steps the slowest counts
        ([20.0, 10.0, 10.0], 200),  # in any order
        ([1000.0] * 10, 3600),  # the ceiling
        ([0.0], 60),
    ],
)
def test_the_limit_of_a_step_is_derived_from_earlier_steps(step_seconds: Sequence[float], limit: float) -> None:
    assert step_limit_seconds(step_seconds, FLOOR_SECONDS) == pytest.approx(limit)


def test_a_floor_above_the_ceiling_wins() -> None:
    assert step_limit_seconds([100.0], 7200) == 7200


@pytest.mark.parametrize(
    ("stage", "stage_began", "last_step", "step_seconds", "now", "healthy", "limit"),
    [
        # Each stage has its own limit, which does not depend on the steps.
        ("starting", 0, None, (), 900, True, 900),
        ("starting", 0, None, (), 900.1, False, 900),
        ("joining", 10, None, (), 3610, True, 3600),
        ("joining", 10, None, (), 3610.1, False, 3600),
        ("restoring", 0, None, (), 7200, True, 7200),
        ("restoring", 0, None, (), 7201, False, 7200),
        ("compiling", 0, None, (), 7200, True, 7200),
        ("compiling", 0, None, (), 7201, False, 7200),
        ("evaluating", 100, 50, (0.1,), 7300, True, 7200),
        ("evaluating", 100, 50, (0.1,), 7301, False, 7200),
        ("saving", 100, 50, (0.1,), 7300, True, 7200),
        ("saving", 100, 50, (0.1,), 7301, False, 7200),
        ("leaving", 100, 50, (0.1,), 7300, True, 7200),
        ("leaving", 100, 50, (0.1,), 7301, False, 7200),
        ("done", 0, 50, (0.1,), 1e9, True, math.inf),
        # Training: before the first step the process may still compile, although the stage is called training.
        ("training", 0, None, (), 7200, True, 7200),
        ("training", 0, None, (), 7201, False, 7200),
        # One step is done, but no duration is known: the second step may compile again.
        ("training", 0, 100, (), 7300, True, 7200),
        ("training", 0, 100, (), 7301, False, 7200),
        # The time counts from the last step; the limit is learned from the steps so far.
        ("training", 0, 100, (0.5, 0.5), 160, True, 60),
        ("training", 0, 100, (0.5, 0.5), 160.1, False, 60),
        ("training", 0, 100, (20.0,), 300, True, 200),
        ("training", 0, 100, (20.0,), 300.1, False, 200),
        # After an evaluation the time counts from its end, and not from the step before it.
        ("training", 500, 100, (0.5,), 560, True, 60),
        ("training", 500, 100, (0.5,), 560.1, False, 60),
    ],
)
def test_the_health_verdict_depends_on_the_stage_and_the_time(
    stage: Stage,
    stage_began: float,
    last_step: float | None,
    step_seconds: tuple[float, ...],
    now: float,
    healthy: bool,
    limit: float,
) -> None:
    health = judge(stage, stage_began, last_step, [step_seconds], now, FLOOR_SECONDS)
    assert (health.healthy, health.limit_seconds) == (healthy, limit)


def test_every_stage_has_a_verdict() -> None:
    for stage in get_args(Stage):
        assert judge(stage, 0.0, None, (), 1.0, FLOOR_SECONDS).healthy


def test_the_verdict_is_a_sentence() -> None:
    assert (
        judge("training", 0.0, 10.0, [(1.0,)], 100.0, FLOOR_SECONDS).message
        == "stalled: no step ended for 90.0 s, limit 60.0 s"
    )
    assert judge("compiling", 0.0, None, (), 5.0, FLOOR_SECONDS).message == "ok: compiling for 5.0 s, limit 7200.0 s"
    assert judge("training", 0.0, None, (), 5.0, FLOOR_SECONDS).message == "ok: no first step for 5.0 s, limit 7200.0 s"
    assert judge("done", 0.0, None, (), 5.0, FLOOR_SECONDS).message == "ok: done for 5.0 s, no limit"
