"""Losses over pairs of a preferred and a rejected answer, as functions of the log-probabilities of the answers. Pure.

An answer is all tokens of a conversation that count in the loss. Its log-probability is the sum over these tokens, in
nats. Pairs have any shape; all arrays of a call have the same one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from halcyon_api.base import ApiModel
from halcyon_api.spec.objective import DpoSpec, IpoSpec, OrpoSpec, SimpoSpec

_NEAREST_TO_CERTAIN = -1e-6
"""Largest mean log-probability of a token in odds: the odds of a certain answer are infinite."""


class Answers(NamedTuple):
    """The answers of pairs, float32."""

    log_prob: jax.Array
    """Log-probability under the trained model."""
    reference: jax.Array | None
    """Log-probability under the reference model; None for a loss without one."""
    tokens: jax.Array
    """Number of tokens, at least 1."""


class PairLosses(NamedTuple):
    """Numbers of each pair, float32."""

    loss: jax.Array
    chosen_reward: jax.Array
    rejected_reward: jax.Array


def pair_losses(spec: ApiModel, chosen: Answers, rejected: Answers) -> PairLosses:
    """The loss of each pair, and the implicit rewards of its answers.

    - DPO (Rafailov et al. 2023, equation 7): ``-log sigmoid(h)``, where h is the difference of the rewards
      ``beta (log_prob - reference)``. With label smoothing e (Mitchell 2023, "A note on DPO with noisy preferences"):
      ``-(1 - e) log sigmoid(h) - e log sigmoid(-h)``.
    - IPO (Azar et al. 2023, equation 17): ``(h / beta - 1 / (2 beta))^2`` with the same h; by choice of means over
      tokens.
    - SimPO (Meng et al. 2024, equation 6): ``-log sigmoid(h - gamma)``, with the rewards ``beta log_prob / tokens``.
    - ORPO (Hong et al. 2024, equations 6 and 7): ``-log_prob / tokens`` of the chosen answer, plus weight times
      ``-log sigmoid(log odds(chosen) - log odds(rejected))``, where ``odds = p / (1 - p)`` and ``log p = log_prob /
      tokens``. Rewards: weight times ``log_prob / tokens``.

    Raises:
        TypeError: The loss needs a reference, and the answers have none, or no loss has this spec.
    """
    match spec:
        case DpoSpec():
            rewards = [spec.beta * (one.log_prob - _reference(one)) for one in (chosen, rejected)]
            margin = rewards[0] - rewards[1]
            smoothed = (1 - spec.label_smoothing) * _loss(margin) + spec.label_smoothing * _loss(-margin)
            return PairLosses(smoothed, *rewards)
        case IpoSpec():
            ratios = [
                (one.log_prob - _reference(one)) / (one.tokens if spec.per_token else 1.0) for one in (chosen, rejected)
            ]
            distance = ratios[0] - ratios[1] - 1 / (2 * spec.beta)
            return PairLosses(distance * distance, *(spec.beta * ratio for ratio in ratios))
        case SimpoSpec():
            rewards = [spec.beta * _mean(one) for one in (chosen, rejected)]
            return PairLosses(_loss(rewards[0] - rewards[1] - spec.gamma), *rewards)
        case OrpoSpec():
            odds = _log_odds(_mean(chosen)) - _log_odds(_mean(rejected))
            return PairLosses(
                -_mean(chosen) + spec.weight * _loss(odds), *(spec.weight * _mean(one) for one in (chosen, rejected))
            )
        case other:
            raise TypeError(f"no loss over pairs for a spec of type {type(other).__name__}")


def _loss(margin: jax.Array) -> jax.Array:
    """``-log sigmoid(margin)``, without overflow."""
    return jax.nn.softplus(-margin)


def _mean(answer: Answers) -> jax.Array:
    return answer.log_prob / answer.tokens


def _reference(answer: Answers) -> jax.Array:
    if answer.reference is None:
        raise TypeError("this loss compares with a reference model, and there is none")
    return answer.reference


def _log_odds(mean: jax.Array) -> jax.Array:
    """``log(p / (1 - p))`` of ``log p``."""
    less = jnp.minimum(mean, _NEAREST_TO_CERTAIN)
    return less - jnp.log(-jnp.expm1(less))
