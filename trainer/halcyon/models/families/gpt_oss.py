"""gpt-oss (OpenAI 2025): attention sinks, a window in every other layer, biases everywhere, experts with a clamped SwiGLU.

The published router takes a softmax over the logits of the chosen experts alone. That is the softmax over all experts, divided by its sum
over the chosen ones.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.expert_decoder import ExpertDecoder, ExpertDesign
from halcyon.models.families.designs import design_of, router_losses
from halcyon.models.parts.experts import Gate
from halcyon.models.parts.routing import Routing
from halcyon_api.spec.families.gpt_oss import GptOssSpec


@functools.cache
def clamped_gate(alpha: float, limit: float) -> Gate:
    """``(up + 1) * gate * sigmoid(alpha * gate)``, with `gate` at most the limit and `up` within both signs of it.

    It returns the same function for the same numbers, because the function is a static field of a model.
    """

    def combine(gate: jax.Array, up: jax.Array) -> jax.Array:
        gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
        return (up + 1) * gate * jax.nn.sigmoid(alpha * gate)

    return combine


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
            combine=clamped_gate(spec.swiglu_alpha, spec.swiglu_limit),
        )
        return GptOss.of(design, vocab, max_position, dtype, key=key)
