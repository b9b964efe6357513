"""The loss of sampled answers, as a function of the log-probabilities of their tokens. Pure.

All arrays of a call have the axes [answer, token] and the type float32. `counts` is 1 for a token that the model
sampled, and 0 for the prompt, the padding and the tokens of tools.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from halcyon_api.spec.objective import PolicySpec

_MOST_LOG_RATIO = 20.0
"""Greatest magnitude of the logarithm of a ratio: its exponential must be finite."""


class TokenLosses(NamedTuple):
    """Numbers of each token: float32 [answer, token]."""

    loss: jax.Array
    """To be minimised."""
    clipped: jax.Array
    """1 where the ratio is clipped, so that the token has no gradient from its advantage."""
    kl: jax.Array | None
    """Estimate of the KL to the reference, in nats; None without a reference."""


def token_losses(
    spec: PolicySpec,
    log_probs: jax.Array,
    sampled: jax.Array,
    reference: jax.Array | None,
    advantages: jax.Array,
    counts: jax.Array,
) -> TokenLosses:
    """The clipped loss of each token (Schulman et al. 2017, equation 7; Shao et al. 2024, equation 3).

    ``-min(r A, clip(r, 1 - clipLow, 1 + clipHigh) A) + beta KL``, where r is a ratio of probabilities under the trained
    model and under the one that sampled: that of the token, or the geometric mean over the tokens of the answer (GSPO;
    Zheng et al. 2025, equation 7). KL is the estimator ``q - log q - 1`` with q = reference / trained (Schulman 2020,
    "Approximating KL divergence").

    Args:
        spec: ``spec.objective.policy``.
        log_probs: Under the trained model.
        sampled: Under the model that sampled the answers.
        reference: Under the reference. None: without one.
        advantages: Of each token.
        counts: See this module.
    """
    log_ratio = log_probs - sampled
    if spec.ratio == "sequence":
        tokens = jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1.0)
        log_ratio = jnp.broadcast_to(jnp.sum(log_ratio * counts, axis=1, keepdims=True) / tokens, counts.shape)
    ratio = jnp.exp(jnp.clip(log_ratio, -_MOST_LOG_RATIO, _MOST_LOG_RATIO))
    low, high = 1 - spec.clip_low, 1 + spec.clip_high
    loss = -jnp.minimum(ratio * advantages, jnp.clip(ratio, low, high) * advantages)
    clipped = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))
    if reference is None:
        return TokenLosses(loss, clipped.astype(jnp.float32), None)
    log_q = reference - log_probs
    kl = jnp.exp(jnp.clip(log_q, -_MOST_LOG_RATIO, _MOST_LOG_RATIO)) - log_q - 1
    return TokenLosses(loss + spec.beta * kl, clipped.astype(jnp.float32), kl)


def token_weights(spec: PolicySpec, counts: jax.Array) -> jax.Array:
    """The weight of each token in the sum of the losses: float32 [answer, token].

    - ``token``: 1, so that each token weighs the same (DAPO; Yu et al. 2025, equation 8);
    - ``sequence``: 1 / (tokens of the answer), so that each answer does (Shao et al. 2024, equation 3);
    - ``constant``: 1 / ``maxTokens`` (Dr. GRPO; Liu et al. 2025, section 3.2).
    """
    match spec.normalization:
        case "token":
            return counts
        case "sequence":
            return counts / jnp.maximum(jnp.sum(counts, axis=1, keepdims=True), 1.0)
        case "constant":
            return counts / spec.max_tokens


def total_weight(spec: PolicySpec, counts: jax.Array) -> jax.Array:
    """What the sum of the losses is divided by: tokens with the normalization ``token``, else answers; float32
    scalar.
    """
    if spec.normalization == "token":
        return jnp.sum(counts)
    return jnp.sum(jnp.max(counts, axis=1))
