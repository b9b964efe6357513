"""Advantages of groups, and pass@k."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halcyon.evaluate.evaluation import Evaluation, total
from halcyon.history.background import Row
from halcyon.telemetry.evaluating import numbers
from halcyon.telemetry.trackers.tracker import numbers as tracked
from halcyon.training.policy.advantages import advantages, equal_groups, passes

rewards_of_groups = st.integers(2, 5).flatmap(
    lambda size: st.lists(st.lists(st.floats(-3, 3).map(lambda x: round(x, 3)), min_size=size, max_size=size), min_size=1, max_size=4)
)


@given(rewards_of_groups)
def test_advantages_are_those_of_each_group_alone(groups: list[list[float]]) -> None:
    rewards = np.array(groups)
    for mine, centred, standardized in zip(groups, advantages(rewards, "centred"), advantages(rewards, "standardized"), strict=True):
        mean = math.fsum(mine) / len(mine)
        assert centred == pytest.approx([one - mean if len(set(mine)) > 1 else 0.0 for one in mine], abs=1e-12)
        deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in mine) / len(mine))
        assert standardized == pytest.approx([(one - mean) / deviation if len(set(mine)) > 1 else 0.0 for one in mine], rel=1e-6, abs=1e-9)


def test_equal_rewards_have_no_advantage_although_their_mean_rounds() -> None:
    rewards = np.full((1, 3), 0.1)
    assert rewards.mean() != 0.1
    assert equal_groups(rewards).tolist() == [True]
    assert not advantages(rewards, "standardized").any()


def test_passes_have_powers_of_two_and_the_whole_group() -> None:
    found = passes(np.array([[1.0, 0.0, 0.5, 0.0, 0.0, 0.0], [0.0] * 6]))
    assert list(found) == [1, 2, 4, 6]
    assert found[1] == pytest.approx(1 / 6)
    assert found[6] == 1


def test_evaluations_of_several_sources_add_up() -> None:
    """The parts have 2 and 1 prompts with two answers each; of the first part one answer of one prompt is right, of the second both are."""
    first = Evaluation(-1.0, 4, 0, 2, 0.5, passes(np.array([[1.0, 0.0], [0.0, 0.0]])))
    second = Evaluation(-2.0, 2, 0, 1, 0.5, passes(np.array([[1.0, 1.0]])))
    found = numbers(total([first, second]))
    assert (found["loss"], found["reward"], found["sequences"]) == (-0.5, 0.5, 3)
    assert found["pass_at"] == {"1": pytest.approx(0.5), "2": pytest.approx(2 / 3)}
    assert tracked(Row("evaluation", 0.0, {"step": 3, **found}))["evaluation/pass_at/2"] == pytest.approx(2 / 3)
    assert "pass_at" not in numbers(Evaluation(1.0, 1.0, 1, 1, 0.1))
