"""gpt-oss (OpenAI 2025): attention sinks, a window in every other layer, biases everywhere, experts with a clamped SwiGLU.

The published router takes a softmax over the logits of the chosen experts alone. That is the softmax over all experts, divided by its sum
over the chosen ones.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.expert_decoder import ExpertDecoder, ExpertDesign
from halcyon.models.families.designs import design_of, router_losses
from halcyon.models.parts.routing import Routing
from halcyon_api.spec.families.gpt_oss import GptOssSpec

_LIMIT, _STEEPNESS = 7.0, 1.702


def clamped_gate(gate: jax.Array, up: jax.Array) -> jax.Array:
    """``(up + 1) * gate * sigmoid(1.702 gate)``, with `gate` at most 7 and `up` between -7 and 7."""
    gate, up = jnp.minimum(gate, _LIMIT), jnp.clip(up, -_LIMIT, _LIMIT)
    return (up + 1) * gate * jax.nn.sigmoid(_STEEPNESS * gate)


class GptOss(ExpertDecoder):
    """A gpt-oss decoder."""

    @staticmethod
    def init(spec: GptOssSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> GptOss:
        """Random parameters; see `ExpertDecoder.of`."""
        design = ExpertDesign(
            plain=dataclasses.replace(design_of(spec, "silu"), scaling="wide"),
            experts=spec.experts(),
            routing=Routing(spec.num_experts_per_tok),
            losses=router_losses(spec),
            combine=clamped_gate,
        )
        return GptOss.of(design, vocab, max_position, dtype, key=key)
