"""The statistics of the rewards of groups. Pure; float64."""

from __future__ import annotations

import math

import numpy as np

from halcyon.evals.results import pass_at_k, reported_ks
from halcyon_api.spec.objective import PolicySpec

TOLERANCE = 1e-6
"""Largest difference of equal rewards: absolute, and relative to the largest reward of the group.

Above the rounding of float32.
"""

PASSES = 1.0
"""Least reward of an answer that counts as right."""


def advantages(rewards: np.ndarray, policy: PolicySpec) -> np.ndarray:
    """Each reward minus the mean of its group (Liu et al. 2025); if ``advantage`` is ``standardized``, divided by the
    standard deviation of the group plus ``deviationEpsilon`` (Shao et al. 2024, section 4.1.2). 0 in a group whose
    rewards are equal.

    Args:
        rewards: float64 [prompt, answer].
        policy: ``spec.objective.policy`` of the run.

    Returns:
        float64 [prompt, answer].
    """
    equal = equal_groups(rewards)[:, None]
    centred = np.where(equal, 0.0, rewards - rewards.mean(axis=1, keepdims=True))
    if policy.advantage == "centred":
        return centred
    deviation = rewards.std(axis=1, ddof=1 if policy.deviation == "sample" else 0, keepdims=True)
    return centred / np.where(equal, 1.0, deviation + policy.deviation_epsilon)


def equal_groups(rewards: np.ndarray) -> np.ndarray:
    """Whether the rewards of a group differ by rounding at most, so that its answers have no gradient: bool
    [prompt].
    """
    largest = np.maximum(1.0, np.abs(rewards).max(axis=1))
    return np.ptp(rewards, axis=1) <= TOLERANCE * largest


def passes(rewards: np.ndarray) -> dict[int, float]:
    """The sum over the prompts of `pass_at_k`, for k = 1, 2, 4, ... and for all answers of a group.

    Args:
        rewards: float64 [prompt, answer]. An answer is right if its reward is at least `PASSES`.
    """
    size, right = rewards.shape[1], (rewards >= PASSES).sum(axis=1).tolist()
    return {k: math.fsum(pass_at_k(size, count, k) for count in right) for k in reported_ks(size)}
