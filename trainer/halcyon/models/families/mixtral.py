"""Mixtral (Jiang et al. 2024): a Mistral with experts in every layer; the weights of a token's experts add up to 1."""

from __future__ import annotations

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.expert_decoder import ExpertDecoder, ExpertDesign
from halcyon.models.families.designs import design_of, router_losses
from halcyon.models.parts.experts import gate_of
from halcyon.models.parts.routing import Routing
from halcyon_api.spec.families.mixtral import MixtralSpec


class Mixtral(ExpertDecoder):
    """A Mixtral decoder."""

    @staticmethod
    def init(spec: MixtralSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Mixtral:
        """Random parameters; see `ExpertDecoder.of`."""
        design = ExpertDesign(
            plain=design_of(spec, spec.hidden_act),
            experts=spec.experts(),
            routing=Routing(spec.num_experts_per_tok),
            losses=router_losses(spec),
            combine=gate_of(spec.hidden_act),
        )
        return Mixtral.of(design, vocab, max_position, dtype, key=key)
