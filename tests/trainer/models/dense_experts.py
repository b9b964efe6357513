"""A mixture of experts without dispatch: every expert is computed for every token, and weighted.

In float32, without code of the part.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def dense_mixture(moe: Any, x: jax.Array, groups: int = 1, kept_groups: int = 1) -> jax.Array:
    """The output of a `MixtureOfExperts` for tokens [token, embed], with the weights of all other experts set to
    zero.
    """
    routing, router, experts = moe.router.routing, moe.router, moe.experts
    logits = x @ router.weight.array + (0 if router.bias is None else router.bias.array)
    scores = jax.nn.softmax(logits) if routing.scores == "softmax" else 1 / (1 + jnp.exp(-logits))
    ranked = scores + (0 if router.correction is None else router.correction.array)
    if groups > 1:
        grouped = ranked.reshape(len(x), groups, -1)
        best = jnp.sum(jnp.sort(grouped, -1)[..., -2:], -1)
        kept = best >= jnp.sort(best, -1)[:, -kept_groups, None]
        ranked = jnp.where(kept[..., None], grouped, -jnp.inf).reshape(ranked.shape)
    least = jnp.sort(ranked, -1)[:, -routing.experts_per_token, None]
    weights = jnp.where(ranked >= least, scores, 0)
    if routing.normalised:
        weights = weights / jnp.sum(weights, -1, keepdims=True)
    weights = weights * routing.scale

    def biased(y: jax.Array, bias: Any) -> jax.Array:
        return y if bias is None else y + bias.array

    gate = biased(jnp.einsum("nd,edf->nef", x, experts.gate.array), experts.gate_bias)
    up = biased(jnp.einsum("nd,edf->nef", x, experts.up.array), experts.up_bias)
    outputs = biased(jnp.einsum("nef,efd->ned", experts.combine(gate, up), experts.down.array), experts.down_bias)
    total = jnp.einsum("ne,ned->nd", weights, outputs)
    if moe.shared is not None:
        hidden = jax.nn.silu(x @ moe.shared.gate.weight.array) * (x @ moe.shared.up.weight.array)
        total = total + hidden @ moe.shared.down.weight.array
    return total
