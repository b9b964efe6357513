"""The save interval that loses the least time, compared with a simulation that does not use the formula."""

from __future__ import annotations

import numpy as np
import pytest

from halcyon.checkpoint.save_schedule import PRIOR_SECONDS, best_interval, mean_time_between_stops
from tests.trainer.checkpoint.helpers import Root, epoch, open_root, save_step


def goodput(interval: float, cost: float, mean: float) -> float:
    """Share of the time spent on steps that are kept: whole intervals between stops, minus the time that each save
    blocks.
    """
    up = np.random.default_rng(0).exponential(mean, 200_000)
    return float((up // interval * (interval - cost)).sum() / up.sum())


@pytest.mark.parametrize(("cost", "mean"), [(0.1, 3600), (1, 3600), (1, 600), (30, 3600), (300, 3600), (300, 400)])
def test_no_other_interval_is_noticeably_better(cost: float, mean: float) -> None:
    others = np.geomspace(1.05 * cost, 3 * mean, 60)
    best = max(goodput(interval, cost, mean) for interval in others)
    assert goodput(best_interval(cost, mean), cost, mean) > best - 0.003


def test_no_interval_is_shorter_than_a_save() -> None:
    assert best_interval(0.1, 600, save_seconds=90) == 90
    assert best_interval(2000, 600) == 600


def test_observed_stops_soon_outweigh_the_assumed_mean() -> None:
    assert mean_time_between_stops(0, 0) == PRIOR_SECONDS
    assert mean_time_between_stops(100 * 600, 100) == pytest.approx(600, rel=0.25)
    assert mean_time_between_stops(30 * 86400, 0) > 30 * 86400


def test_a_run_that_is_stopped_often_saves_more_often(file_root: Root) -> None:
    spec = file_root.spec.model_validate(file_root.spec.document() | {"save": {"auto": True, "everySteps": 1}})
    root = Root(spec, file_root.folder)
    intervals: list[float] = []
    for attempt in range(1, 5):
        with open_root(root, epoch=epoch(attempt), clock=lambda: 0.0) as checkpointer:
            assert checkpointer.interval_seconds is not None
            intervals.append(checkpointer.interval_seconds)
            assert not checkpointer.should_save(1)
            assert [checkpointer.due(now) for now in (intervals[-1] - 1, intervals[-1])] == [False, True]
            save_step(checkpointer, attempt)
            checkpointer.finish()
            assert checkpointer.last_save is not None
            assert checkpointer.interval_seconds >= checkpointer.last_save.commit_seconds
    assert intervals == sorted(intervals, reverse=True)
    assert intervals[-1] < 0.7 * intervals[0]
    assert root.head["starts"] == 4
    assert root.head["upMilliseconds"] > 0
