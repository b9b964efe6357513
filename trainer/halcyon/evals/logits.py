"""Log-probabilities of chosen tokens, without keeping the logits."""

from __future__ import annotations

import haliax as hax
import jax
import jax.numpy as jnp

from halcyon.inference.sampling import most_likely
from halcyon.models import CausalLM
from halcyon.models.axes import BATCH, POSITION
from halcyon.models.logit_memory import block_count, most_logit_bytes

MAX_LOGIT_BYTES_CPU = 1 << 23
"""Largest size of the logits that are computed at a time on a CPU, whose caches hold about as much."""


def log_probs_at(model: CausalLM, features: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of some tokens at each position, and the most likely token.

    Args:
        model: The model.
        features: [row, position, embed].
        targets: int32 [row, position, target].

    Returns:
        float32 [row, position, target], and int32 [row, position].
    """
    shape, flat = targets.shape, features.reshape(-1, features.shape[-1])
    most = MAX_LOGIT_BYTES_CPU if jax.default_backend() == "cpu" else most_logit_bytes()
    blocks = block_count(len(flat), len(flat) * model.vocab.size * 4, most)

    def of_block(block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        named = hax.named(block[0][None], (BATCH, POSITION, model.embed.name))
        logits = model.logits(named).rearrange((BATCH, POSITION, model.vocab.name)).array[0].astype(jnp.float32)
        of_targets = jnp.take_along_axis(logits, block[1], -1)
        return of_targets - jax.nn.logsumexp(logits, -1, keepdims=True), most_likely(logits)

    log_probs, best = jax.lax.map(of_block, (flat.reshape(blocks, -1, flat.shape[-1]), targets.reshape(blocks, -1, shape[-1])))
    return log_probs.reshape(shape), best.reshape(shape[:-1])
