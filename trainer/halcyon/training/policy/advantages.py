"""The statistics of the rewards of groups. Pure; float64."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from halcyon.evaluate.tasks.results import pass_at_k, reported_ks

PASSES = 1.0
"""Least reward of an answer that counts as right."""


def advantages(rewards: np.ndarray, kind: Literal["standardized", "centred"]) -> np.ndarray:
    """Each reward minus the mean of its group (Liu et al. 2025), divided by the standard deviation of the group if `standardized` (Shao et
    al. 2024, section 4.1.2). 0 in a group whose rewards are all equal.

    Args:
        rewards: float64 [prompt, answer].
        kind: See ``spec.objective.policy.advantage``.

    Returns:
        float64 [prompt, answer].
    """
    equal = equal_groups(rewards)[:, None]
    centred = np.where(equal, 0.0, rewards - rewards.mean(axis=1, keepdims=True))
    if kind == "centred":
        return centred
    return centred / np.where(equal, 1.0, rewards.std(axis=1, keepdims=True))


def equal_groups(rewards: np.ndarray) -> np.ndarray:
    """Whether all rewards of a group are equal, so that its answers have no gradient: bool [prompt]. Rewards are compared with each other,
    because their mean may be rounded."""
    return rewards.max(axis=1) == rewards.min(axis=1)


def passes(rewards: np.ndarray) -> dict[int, float]:
    """The sum over the prompts of `pass_at_k`, for k = 1, 2, 4, ... and for all answers of a group.

    Args:
        rewards: float64 [prompt, answer]. An answer is right if its reward is at least `PASSES`.
    """
    size, right = rewards.shape[1], (rewards >= PASSES).sum(axis=1).tolist()
    return {k: math.fsum(pass_at_k(size, count, k) for count in right) for k in reported_ks(size)}
