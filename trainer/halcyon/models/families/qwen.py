"""Qwen 2 and 2.5 (Yang et al. 2024): biases of queries, keys, values. Qwen 3 (Yang et al. 2025): norms of queries and keys of a head."""

from __future__ import annotations

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.decoder import Decoder
from halcyon.models.families.designs import design_of
from halcyon_api.spec.families.qwen import Qwen2Spec, Qwen3Spec


class Qwen2(Decoder):
    """A Qwen 2 or 2.5 decoder."""

    @staticmethod
    def init(spec: Qwen2Spec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Qwen2:
        """Random parameters; see `Decoder.of`."""
        return Qwen2.of(design_of(spec, spec.hidden_act), vocab, max_position, dtype, key=key)


class Qwen3(Decoder):
    """A dense Qwen 3 decoder."""

    @staticmethod
    def init(spec: Qwen3Spec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Qwen3:
        """Random parameters; see `Decoder.of`."""
        return Qwen3.of(design_of(spec, spec.hidden_act), vocab, max_position, dtype, key=key)
