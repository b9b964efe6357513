"""The losses over pairs are the formulas of their papers, written again in float64."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.step.objectives.preference import Answers, PairLosses, pair_losses
from halcyon_api.spec.objective import PreferenceSpec

PAIRS = 64
NOISE = np.random.default_rng(0)
TOKENS = NOISE.integers(1, 40, (2, PAIRS)).astype(np.float64)
POLICY = -NOISE.gamma(2.0, 0.6, (2, PAIRS)) * TOKENS
REFERENCE = POLICY + NOISE.normal(0, 3, (2, PAIRS))


def spec_of(kind: str, **settings: Any) -> PreferenceSpec:
    return PreferenceSpec.model_validate({kind: settings})


def found(spec: PreferenceSpec, policy: Any = POLICY, reference: Any = REFERENCE, tokens: Any = TOKENS) -> PairLosses:
    known = None if not spec.has_reference else jnp.asarray(reference, jnp.float32)
    chosen, rejected = (
        Answers(
            jnp.asarray(policy, jnp.float32)[n],
            None if known is None else known[n],
            jnp.asarray(tokens, jnp.float32)[n],
        )
        for n in range(2)
    )
    return pair_losses(spec.value, chosen, rejected)


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -x)


def dpo(beta: float, smoothing: float) -> np.ndarray:
    h = beta * ((POLICY[0] - POLICY[1]) - (REFERENCE[0] - REFERENCE[1]))
    return -(1 - smoothing) * log_sigmoid(h) - smoothing * log_sigmoid(-h)


def ipo(beta: float, per_token: bool) -> np.ndarray:
    ratios = (POLICY - REFERENCE) / (TOKENS if per_token else 1.0)
    return (ratios[0] - ratios[1] - 1 / (2 * beta)) ** 2


def simpo(beta: float, gamma: float) -> np.ndarray:
    mean = POLICY / TOKENS
    return -log_sigmoid(beta * mean[0] - beta * mean[1] - gamma)


def orpo(weight: float) -> np.ndarray:
    p = np.exp(POLICY / TOKENS)
    odds = p / (1 - p)
    return -np.log(p[0]) - weight * log_sigmoid(np.log(odds[0] / odds[1]))


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("dpo", {}, dpo(0.1, 0.0)),
        ("dpo", {"beta": 0.5, "labelSmoothing": 0.2}, dpo(0.5, 0.2)),
        ("ipo", {}, ipo(0.1, per_token=False)),
        ("ipo", {"beta": 0.7, "perToken": True}, ipo(0.7, per_token=True)),
        ("simpo", {}, simpo(2.0, 1.0)),
        ("simpo", {"beta": 10.0, "gamma": 3.0}, simpo(10.0, 3.0)),
        ("orpo", {}, orpo(0.1)),
        ("orpo", {"weight": 2.0}, orpo(2.0)),
    ],
    ids=lambda value: None if isinstance(value, np.ndarray) else str(value),
)
def test_each_loss_is_its_formula(kind: str, settings: dict[str, Any], expected: np.ndarray) -> None:
    losses = found(spec_of(kind, **settings))
    np.testing.assert_allclose(losses.loss, expected, rtol=2e-5, atol=2e-5)
    wanted = np.sign(POLICY[0] / TOKENS[0] - POLICY[1] / TOKENS[1])
    if kind in ("simpo", "orpo"):
        np.testing.assert_array_equal(np.sign(losses.chosen_reward - losses.rejected_reward), wanted)


def test_the_values_at_the_reference() -> None:
    """Before the first step DPO is log 2 and IPO is (1 / (2 beta))^2, whatever the pairs are, and no answer has a
    reward.
    """
    for kind, value in (("dpo", math.log(2)), ("ipo", 25.0)):
        losses = found(spec_of(kind, beta=0.1), POLICY, POLICY)
        np.testing.assert_allclose(losses.loss, value, rtol=1e-6)
        assert not np.any(losses.chosen_reward)
        assert not np.any(losses.rejected_reward)


@pytest.mark.parametrize("kind", ["dpo", "ipo", "simpo", "orpo"])
def test_losses_and_gradients_are_finite_for_certain_and_for_impossible_answers(kind: str) -> None:
    policy = np.array([[0.0, -1e5, 0.0, -1e-9], [-1e5, 0.0, 0.0, -1e-9]])
    tokens = np.array([[1.0, 1.0, 7.0, 3.0]] * 2)

    def loss(policy: jax.Array) -> jax.Array:
        return jnp.sum(found(spec_of(kind), policy, np.zeros((2, 4)), tokens).loss)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(policy, jnp.float32))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["dpo", "ipo", "simpo", "orpo"])
def test_a_step_down_the_loss_prefers_the_preferred_answer(kind: str) -> None:
    def loss(policy: jax.Array) -> jax.Array:
        return jnp.sum(found(spec_of(kind), policy, POLICY).loss)

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(POLICY, jnp.float32)))
    assert (gradient[0] < 0).all()
    assert (gradient[1] > 0).all()
