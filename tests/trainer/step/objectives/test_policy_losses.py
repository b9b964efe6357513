"""The loss of sampled answers in float32 is that of a computation in float64, for all choices."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.step.objectives.policy import token_losses, token_weights, total_weight
from halcyon_api.spec.objective import PolicySpec

ANSWERS, TOKENS, MOST = 6, 5, 7
NOISE = np.random.default_rng(2)
COUNTS = (np.arange(TOKENS) < NOISE.integers(1, TOKENS + 1, (ANSWERS, 1))).astype(np.float32)
COUNTS[0, 1] = 0  # a token of the calculator
ADVANTAGES = NOISE.normal(size=(ANSWERS, 1)).astype(np.float32) * COUNTS
SAMPLED = -NOISE.gamma(2.0, 1.0, (ANSWERS, TOKENS)).astype(np.float32) * COUNTS
TRAINED = (SAMPLED + 0.4 * NOISE.normal(size=SAMPLED.shape)).astype(np.float32) * COUNTS
REFERENCE = (SAMPLED + 0.4 * NOISE.normal(size=SAMPLED.shape)).astype(np.float32) * COUNTS
CHOICES = list(itertools.product(("token", "sequence", "constant"), ("token", "sequence"), (0.0, 0.3)))


def expected(spec: PolicySpec) -> tuple[float, float, float]:
    """The mean loss, the share of clipped tokens and the KL, answer by answer and token by token in float64."""
    trained, sampled, reference, counts = (np.asarray(x, np.float64) for x in (TRAINED, SAMPLED, REFERENCE, COUNTS))
    loss = clipped = kl = weight = 0.0
    for answer in range(ANSWERS):
        places = np.flatnonzero(counts[answer])
        mean = np.mean([trained[answer, place] - sampled[answer, place] for place in places])
        share = {"token": 1.0, "sequence": 1 / len(places), "constant": 1 / MOST}[spec.normalization]
        weight += len(places) if spec.normalization == "token" else 1
        for place in places:
            log_ratio = mean if spec.ratio == "sequence" else trained[answer, place] - sampled[answer, place]
            ratio, advantage = np.exp(log_ratio), float(ADVANTAGES[answer, place])
            inside = min(max(ratio, 1 - spec.clip_low), 1 + spec.clip_high)
            q = reference[answer, place] - trained[answer, place]
            one = np.exp(q) - q - 1
            loss += share * (-min(ratio * advantage, inside * advantage) + spec.beta * one)
            clipped += share * (inside * advantage < ratio * advantage)
            kl += share * one
    return loss / weight, clipped / weight, kl / weight


@pytest.mark.parametrize(("normalization", "ratio", "beta"), CHOICES)
def test_the_loss_is_that_of_float64(normalization: Any, ratio: Any, beta: float) -> None:
    spec = PolicySpec(
        reward="gsm8k",
        normalization=normalization,
        ratio=ratio,
        beta=beta,
        clip_low=0.1,
        clip_high=0.15,
        max_tokens=MOST,
    )
    found = token_losses(spec, TRAINED, SAMPLED, REFERENCE if beta else None, ADVANTAGES, COUNTS)  # pyright: ignore[reportArgumentType]
    weights, total = token_weights(spec, COUNTS), total_weight(spec, COUNTS)  # pyright: ignore[reportArgumentType]
    loss, clipped, kl = expected(spec)
    assert clipped > 0
    assert float((weights * found.loss).sum() / total) == pytest.approx(loss, rel=2e-5, abs=1e-6)
    assert float((weights * found.clipped).sum() / total) == pytest.approx(clipped, rel=1e-5)
    if beta:
        assert found.kl is not None
        assert float((weights * found.kl).sum() / total) == pytest.approx(kl, rel=2e-5)
    else:
        assert found.kl is None


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_truncated_weights_are_those_of_float64(level: Any, beta: float) -> None:
    """As TRL computes them (`vllm_importance_sampling_mode` "token_truncate" and "sequence_truncate"): the loss of a token
    times min(exp(difference), cap), with the difference of the token, or its sum over the answer.
    """
    spec = PolicySpec(reward="gsm8k", correction=level, truncation=1.2, beta=beta, clip_low=0.1, clip_high=0.1)

    def mean(trained: Any) -> Any:
        found = token_losses(spec, trained, SAMPLED, REFERENCE if beta else None, ADVANTAGES, COUNTS)  # pyright: ignore[reportArgumentType]
        return (COUNTS * found.loss).sum() / COUNTS.sum(), found.clipped

    (loss, clipped), gradient = jax.value_and_grad(mean, has_aux=True)(jnp.asarray(TRAINED))
    trained, sampled, reference, counts = (np.asarray(x, np.float64) for x in (TRAINED, SAMPLED, REFERENCE, COUNTS))
    difference = (trained - sampled) * counts
    summed = np.broadcast_to(difference.sum(1, keepdims=True), counts.shape)
    ratio = np.exp(difference if level == "token" else summed)
    weights, log_q = np.minimum(ratio, 1.2), (reference - trained) * counts
    each = -weights * ADVANTAGES + beta * (np.exp(log_q) - log_q - 1)
    of_log_probs = (-weights * ADVANTAGES + beta * (1 - np.exp(log_q)) * counts) / counts.sum()
    assert 0 < (counts * (ratio > 1.2)).sum() == float((COUNTS * clipped).sum()) < counts.sum()
    assert float(loss) == pytest.approx((counts * each).sum() / counts.sum(), rel=2e-5, abs=1e-6)
    np.testing.assert_allclose(np.asarray(gradient), of_log_probs, rtol=2e-5, atol=1e-6)


def test_a_ratio_stays_finite() -> None:
    spec = PolicySpec(reward="gsm8k", beta=1.0)
    far, one = np.full((1, 1), 500.0, np.float32), np.ones((1, 1), np.float32)
    found = token_losses(spec, far, -far, far, -one, one)  # pyright: ignore[reportArgumentType]
    assert np.isfinite(np.asarray(found.loss)).all()
