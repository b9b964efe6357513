"""Llama (Touvron et al. 2023): RMSNorm before each part, rotary positions, grouped-query attention, SwiGLU."""

from __future__ import annotations

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.block_kinds import BlockKind
from halcyon.models.decoder import Decoder
from halcyon.models.design import Design
from halcyon.models.parts.rotary import Rope
from halcyon_api.spec.families.llama import LlamaSpec


class Llama(Decoder):
    """A Llama decoder. Its norms round once, unlike those of Hugging Face: runs of earlier versions go on with the same bits."""

    @staticmethod
    def init(spec: LlamaSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Llama:
        """Random parameters; see `Decoder.of`."""
        design = Design(
            sizes=spec.sizes(),
            kinds=(BlockKind(Rope(spec.rope_theta, spec.rope_scaling)),) * spec.layers,
            epsilon=spec.norm_epsilon,
            std=spec.initializer_std,
            scaling="wide",
            activation=spec.hidden_act,
        )
        return Llama.of(design, vocab, max_position, dtype, key=key)
