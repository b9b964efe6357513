"""Advantages of groups, and pass@k."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halcyon.run.policy.rewards import advantages, equal_groups, passes
from halcyon.telemetry.history.background import Row
from halcyon.telemetry.trackers.tracker import numbers as tracked
from halcyon_api.spec.objective import Advantage, Deviation, PolicySpec
from halcyon_api.status.evaluation import Evaluation, total

rewards_of_groups = st.integers(2, 5).flatmap(
    lambda size: st.lists(
        st.lists(st.floats(-3, 3).map(lambda x: round(x, 3)), min_size=size, max_size=size), min_size=1, max_size=4
    )
)


def policy(kind: Advantage, deviation: Deviation = "population", epsilon: float = 1e-6) -> PolicySpec:
    return PolicySpec(reward="gsm8k", advantage=kind, deviation=deviation, deviation_epsilon=epsilon)


@given(rewards_of_groups, st.sampled_from(["population", "sample"]), st.sampled_from([0.0, 1e-6, 1e-2]))
def test_advantages_are_those_of_each_group_alone(
    groups: list[list[float]], deviation: Deviation, epsilon: float
) -> None:
    """Against the formula, written for one group with the statistics of the standard library."""
    standard_deviation = {"population": statistics.pstdev, "sample": statistics.stdev}[deviation]
    rewards = np.array(groups)
    for mine, centred, standardized in zip(
        groups,
        advantages(rewards, policy("centred")),
        advantages(rewards, policy("standardized", deviation, epsilon)),
        strict=True,
    ):
        distances = [one - statistics.fmean(mine) if len(set(mine)) > 1 else 0.0 for one in mine]
        assert centred == pytest.approx(distances, abs=1e-12)
        divisor = standard_deviation(mine) + epsilon if len(set(mine)) > 1 else 1.0
        assert standardized == pytest.approx([one / divisor for one in distances], rel=1e-6, abs=1e-9)


def test_the_deviation_divides_by_n_or_by_n_minus_one() -> None:
    rewards = np.array([[0.0, 0.0, 0.0, 1.0]])
    assert advantages(rewards, policy("standardized", "population", 0.0))[0, 3] == pytest.approx(
        0.75 / math.sqrt(3 / 16)
    )
    assert advantages(rewards, policy("standardized", "sample", 0.0))[0, 3] == pytest.approx(0.75 / 0.5)


@pytest.mark.parametrize("kind", ["centred", "standardized"])
@pytest.mark.parametrize(
    "rewards",
    [
        [0.1, 0.1, 0.1],  # their mean is not 0.1
        [0.3, 0.1 + 0.2, 0.3, 0.3],
        [0.3, float(np.float32(0.3)), 0.3],  # one part computes in float32
        [0.3 - 0.1 - 0.2, 0.0],  # nothing left but the rounding
        [1e9, 1e9 + 1.0, 1e9],
        [-7.0, -7.0 - 7e-7],
    ],
)
def test_rewards_that_differ_by_rounding_are_equal(rewards: list[float], kind: Advantage) -> None:
    groups = np.array([rewards])
    assert equal_groups(groups).tolist() == [True]
    assert not advantages(groups, policy(kind, epsilon=0.0)).any()


def test_small_differences_count_but_are_not_amplified() -> None:
    """Two rewards that differ by 1e-4 have advantages near 1 with the default epsilon, and small ones with a large
    epsilon.
    """
    groups = np.array([[0.5, 0.5001]])
    assert equal_groups(groups).tolist() == [False]
    assert advantages(groups, policy("standardized"))[0] == pytest.approx([-0.9804, 0.9804], abs=1e-4)
    assert np.abs(advantages(groups, policy("standardized", epsilon=1.0))).max() < 1e-4


def test_passes_have_powers_of_two_and_the_whole_group() -> None:
    found = passes(np.array([[1.0, 0.0, 0.5, 0.0, 0.0, 0.0], [0.0] * 6]))
    assert list(found) == [1, 2, 4, 6]
    assert found[1] == pytest.approx(1 / 6)
    assert found[6] == 1


def test_evaluations_of_several_sources_add_up() -> None:
    """The parts have 2 and 1 prompts with two answers each; of the first part one answer of one prompt is right, of the
    second both are.
    """
    first = Evaluation(-1.0, 4, 0, 2, 0.5, passes(np.array([[1.0, 0.0], [0.0, 0.0]])))
    second = Evaluation(-2.0, 2, 0, 1, 0.5, passes(np.array([[1.0, 1.0]])))
    found = total([first, second]).fields
    assert (found["loss"], found["reward"], found["sequences"]) == (-0.5, 0.5, 3)
    assert found["pass_at"] == {"1": pytest.approx(0.5), "2": pytest.approx(2 / 3)}
    assert tracked(Row("evaluation", 0.0, {"step": 3, **found}))["evaluation/pass_at/2"] == pytest.approx(2 / 3)
    assert "pass_at" not in Evaluation(1.0, 1.0, 1, 1, 0.1).fields
