"""Preference optimization: a loss over pairs of conversations, of which the first is preferred.

A row of the batch has one or several pairs: their conversations one after the other, the preferred one of each pair
first. They are the segments 1, 2, ... of the row, and attention stays inside a segment, so one pass over the batch
computes both answers of each pair. The loss is a sum over pairs, and the weight is their number, so microbatches,
packing and the mesh change the result only by rounding.

An answer is all tokens of a conversation that count in the loss. Its log-probability is the sum over these tokens, in
nats. The reference model is the frozen argument of the objective. A model with an adapter needs none: without its
adapter it is the reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import BATCH, POSITION
from halcyon.models.log_probs import token_log_probs
from halcyon.models.model import CausalLM, Inputs, Outputs, with_products
from halcyon.models.pooling import pooled
from halcyon.step.objectives.objective import Batch, Common, Sums, named, reference_model, typed, with_routers
from halcyon_api.base import ApiModel
from halcyon_api.spec.objective import DpoSpec, IpoSpec, OrpoSpec, PreferenceSpec, RewardSpec, SimpoSpec

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
    - Reward model (Bradley and Terry 1952; Ouyang et al. 2022, equation 1): ``-log sigmoid(r_chosen - r_rejected)`` of
      the scores, which are in the place of the log-probabilities, plus center times ``(r_chosen + r_rejected)^2``
      (Eisenstein et al. 2023, equation 2).

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
        case RewardSpec():
            one, other = chosen.log_prob, rejected.log_prob
            return PairLosses(_loss(one - other) + spec.center * (one + other) ** 2, one, other)
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


Arrays = Mapping[str, NamedArray]
"""The arrays of a batch by name."""
_ANSWER = "answer"


def _inputs(arrays: Arrays) -> Inputs:
    return Inputs(arrays["tokens"], arrays["positions"], arrays["segments"], arrays["weights"])


@dataclass(frozen=True)
class Preference(Common):
    """A loss over pairs.

    Attributes:
        spec: ``spec.objective.preference`` of the run.
    """

    spec: PreferenceSpec

    fields = typed("tokens", "targets", "segments", "positions", "weights")
    """See `halcyon.step.objectives.objective.Objective`."""
    per_token = False

    def __call__(self, model: CausalLM, batch: Batch, frozen: CausalLM | None, key: jax.Array | None) -> Sums:
        """See `halcyon.step.objectives.objective.Objective`. Metrics, for each pair:

        - ``preference_accuracy``: 1 if the preferred answer has the greater reward, else 0;
        - ``reward_margin``: difference of the rewards;
        - ``chosen_reward`` and ``rejected_reward``.
        """
        del key
        arrays = named(batch, self.fields)
        tokens = self._by_answer(arrays["weights"], arrays)
        if self.spec.reward is None:
            log_probs, outputs = self._log_probs(self.dropping(model, batch), arrays)
            sums = self._by_answer(log_probs * arrays["weights"], arrays)
        else:
            sums, outputs = self._scores(self.dropping(model, batch), arrays)
        reference = self._reference_sums(model, frozen, arrays)

        def answers(first: int) -> Answers:
            known = None if reference is None else reference[:, first::2]
            return Answers(sums[:, first::2], known, jnp.maximum(tokens[:, first::2], 1.0))

        found = pair_losses(self.spec.value, answers(0), answers(1))
        there = jnp.minimum(
            jnp.minimum(tokens[:, 0::2], tokens[:, 1::2]), 1.0
        )  # 0 for a place without a pair, and for padding
        margin = found.chosen_reward - found.rejected_reward
        metrics = {
            "preference_accuracy": jnp.sum(there * (margin > 0)),
            "reward_margin": jnp.sum(there * margin),
            "chosen_reward": jnp.sum(there * found.chosen_reward),
            "rejected_reward": jnp.sum(there * found.rejected_reward),
        }
        of_row = hax.named(jnp.sum(there, axis=1), (BATCH,))
        return with_routers(Sums(jnp.sum(there * found.loss), jnp.sum(there), metrics), outputs, of_row)

    def _scores(self, model: CausalLM, arrays: Arrays) -> tuple[jax.Array, Outputs]:
        """The score of each conversation: float32 [batch, 2 pairs]."""
        outputs = model.states(_inputs(arrays), compute_dtype=self.compute_dtype)
        numbers = jnp.arange(1, 1 + 2 * self.spec.pairs_per_row)
        members = arrays["segments"].array[:, None] == numbers[:, None]
        return model.scores(pooled(outputs.features, members, model.pooling or "last")).array[..., 0], outputs

    def _log_probs(self, model: CausalLM, arrays: Arrays) -> tuple[NamedArray, Outputs]:
        """The log-probability of each target, [batch, position]."""
        model = with_products(model, self.products)
        outputs = model(_inputs(arrays), compute_dtype=self.compute_dtype)
        found = token_log_probs(outputs.features, model.head, arrays["targets"], model.softmax)
        return found.log_probs, outputs

    def _reference_sums(self, model: CausalLM, frozen: CausalLM | None, arrays: Arrays) -> jax.Array | None:
        """Log-probabilities of the answers under the reference, [batch, answer]; None for a loss without one."""
        if not self.spec.has_reference:
            return None
        reference = reference_model(model, frozen, f"objective.preference.{self.spec.kind}")
        log_probs, _ = self._log_probs(reference, arrays)
        return jax.lax.stop_gradient(self._by_answer(log_probs * arrays["weights"], arrays))

    def _by_answer(self, values: NamedArray, arrays: Arrays) -> jax.Array:
        """The sums of values [batch, position] over the segments 1, 2, ... of each row: float32 [batch, 2 pairs]."""
        answer = Axis(_ANSWER, 2 * self.spec.pairs_per_row)
        hits: Any = hax.equal(arrays["segments"].broadcast_axis(answer), hax.arange(answer) + 1)
        sums: Any = hax.sum(hax.where(hits, values, 0.0), POSITION)
        return sums.rearrange((BATCH, _ANSWER)).array
