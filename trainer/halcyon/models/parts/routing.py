"""The choice of experts for each token, from the logits of a router. All arithmetic is float32.

A router gives each expert a score: the softmax of the logits over all experts, or the sigmoid of each logit. A token
goes to the experts with its greatest scores, and their outputs are added up with the scores as weights. Three options,
by the names of the published models:

- Normalised weights add up to 1 (Mixtral, Jiang et al. 2024). With softmax scores, this equals a softmax over the
  chosen logits alone.
- A correction is added to the scores for the choice, but not for the weights: it balances the load without a gradient
  (DeepSeek-AI 2024, section 2.1.2).
- Groups: only the experts of the best groups can be chosen. The score of a group is the sum of its two greatest scores
  (the same section).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from halcyon.models.parts.attention_choice import present_target

Scores = Literal["softmax", "sigmoid"]

_LEAST = 1e-20
"""Added to the sum of a token's weights, so that a division by it is defined."""


@dataclass(frozen=True)
class Routing:
    """The rule by which experts are chosen and weighted.

    Attributes:
        experts_per_token: Experts that each token goes to.
        scores: How a logit becomes a score.
        normalised: Whether the weights of a token are divided by their sum.
        scale: Factor of all weights.
        groups: Number of equal groups of experts; 1: no groups.
        kept_groups: Groups from which a token's experts are chosen.
    """

    experts_per_token: int
    scores: Scores = "softmax"
    normalised: bool = True
    scale: float = 1.0
    groups: int = 1
    kept_groups: int = 1


class Choice(NamedTuple):
    """The experts of each token, in the order of their scores."""

    experts: jax.Array
    """int32 [..., choice]."""
    weights: jax.Array
    """float32 [..., choice]; differentiable with respect to the logits."""
    scores: jax.Array
    """The scores of all experts: float32 [..., experts]."""


def choose(logits: jax.Array, routing: Routing, correction: jax.Array | None = None) -> Choice:
    """The experts of each token and their weights.

    Args:
        logits: float32 [..., experts].
        routing: The rule.
        correction: [experts], added to the scores for the choice alone. It gets no gradient. None: no correction.
    """
    scores = jax.nn.softmax(logits) if routing.scores == "softmax" else jax.nn.sigmoid(logits)
    ranked = jax.lax.stop_gradient(scores)
    if correction is not None:
        ranked = ranked + jax.lax.stop_gradient(correction.astype(jnp.float32))
    if routing.groups > 1:
        ranked = _of_best_groups(ranked, routing)
    experts = jax.lax.top_k(ranked, routing.experts_per_token)[1].astype(jnp.int32)
    weights = (
        jnp.take_along_axis(scores, experts, -1) if present_target().platform == "cpu" else at_experts(scores, experts)
    )
    if routing.normalised:
        weights = weights / (jnp.sum(weights, -1, keepdims=True) + _LEAST)
    return Choice(experts, weights * routing.scale, scores)


@jax.custom_vjp
def at_experts(scores: jax.Array, experts: jax.Array) -> jax.Array:
    """The scores [..., choice] of these experts. The gradient of a look-up would be a scatter, for which XLA sorts;
    here it is a sum.

    Processors keep the look-up: XLA rounds what it fuses with the sum in another way, and the bits of a run there would
    change.
    """
    return jnp.take_along_axis(scores, experts, -1)


def _at_experts_backward(kept: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, None]:
    every, experts = kept
    return jnp.sum(jnp.where(experts[..., None] == every, cotangent[..., None], 0.0), -2), None


at_experts.defvjp(
    lambda scores, experts: (at_experts(scores, experts), (jnp.arange(scores.shape[-1]), experts)), _at_experts_backward
)


def _of_best_groups(ranked: jax.Array, routing: Routing) -> jax.Array:
    """`ranked`, with minus infinity for the experts of all other groups."""
    grouped = ranked.reshape(*ranked.shape[:-1], routing.groups, -1)
    of_group = jnp.sum(jax.lax.top_k(grouped, min(2, grouped.shape[-1]))[0], -1)
    kept = jax.lax.top_k(of_group, routing.kept_groups)[1]
    is_kept = jnp.any(kept[..., :, None] == jnp.arange(routing.groups), -2)
    return jnp.where(is_kept[..., None], grouped, -jnp.inf).reshape(ranked.shape)


class Balance(NamedTuple):
    """How evenly the tokens of each sequence are distributed over the experts of one layer; float32.

    0 for a sequence without weight.
    """

    load: jax.Array
    """Weight of the tokens of each expert, divided by that with an even distribution: [sequence, experts]. 1: even."""
    balance_loss: jax.Array
    """[sequence]. 1 if the distribution is even, up to the number of experts divided by the experts per token."""
    z_loss: jax.Array
    """Mean of the squared logarithm of the softmax's denominator (Zoph et al. 2022, section 3.3): [sequence]."""


def balance(
    logits: jax.Array, choice: Choice, weights: jax.Array, positions: int, add_up: Callable[[jax.Array], jax.Array]
) -> Balance:
    """The balance of each sequence. All means are weighted by token, as the main loss is, so padding has no part in
    them.

    The balance loss is the sum over the experts of load times mean probability, where a probability is a score divided
    by the sum of the token's scores (Fedus et al. 2021, section 2.2; by sequence as in DeepSeek-AI 2024, section
    2.1.2). A loss by sequence is a mean over sequences, so neither microbatches nor the mesh change it. A loss over the
    whole batch would be a product of two sums over it.

    Args:
        logits: float32 [sequence, position, experts], for some or all positions of the sequences.
        choice: The choice of the same tokens.
        weights: The weight of each token: float32 [sequence, position].
        positions: Positions of a whole sequence.
        add_up: Adds up the sums over the parts of a sequence.
    """
    experts, chosen = choice.scores.shape[-1], choice.experts.shape[-1]
    total = add_up(jnp.sum(weights, -1))
    # With a mean of 1, so that weights of 1 stay as they are.
    weights = weights * (positions / jnp.where(total > 0, total, 1.0))[..., None]
    hits = jnp.sum(choice.experts[..., None] == jnp.arange(experts), -2).astype(jnp.float32)
    load = add_up(jnp.sum(hits * weights[..., None], -2)) * (experts / (positions * chosen))
    probabilities = choice.scores / (jnp.sum(choice.scores, -1, keepdims=True) + _LEAST)
    log_totals = jax.nn.logsumexp(logits, -1)
    return Balance(
        load,
        jnp.sum(load * add_up(jnp.sum(probabilities * weights[..., None], -2)), -1) / positions,
        add_up(jnp.sum(log_totals * log_totals * weights, -1)) / positions,
    )
