"""Qwen 3 with experts (Yang et al. 2025): a Qwen 3 in which some or all layers have experts."""

from __future__ import annotations

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.expert_decoder import ExpertDecoder, ExpertDesign
from halcyon.models.families.designs import design_of, router_losses
from halcyon.models.parts.experts import gate_of
from halcyon.models.parts.routing import Routing
from halcyon_api.spec.families.qwen_moe import Qwen3MoeSpec


class Qwen3Moe(ExpertDecoder):
    """A Qwen 3 decoder with experts."""

    @staticmethod
    def init(spec: Qwen3MoeSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Qwen3Moe:
        """Random parameters; see `ExpertDecoder.of`."""
        design = ExpertDesign(
            plain=design_of(spec, spec.hidden_act),
            experts=spec.experts(),
            routing=Routing(spec.num_experts_per_tok, normalised=spec.norm_topk_prob),
            losses=router_losses(spec),
            combine=gate_of(spec.hidden_act),
        )
        return Qwen3Moe.of(design, vocab, max_position, dtype, key=key)
