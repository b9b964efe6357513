"""DeepSeek V3 (DeepSeek-AI 2024), of which Kimi K2 is a size, and GLM 4.5 (GLM Team 2025).

Both have MLPs in their first layers, then experts beside a shared MLP, and routers with the sigmoid and a correction. DeepSeek V3 has
latent attention. GLM 4.5 has grouped-query attention and rotates a part of each head.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.block_kinds import BlockKind
from halcyon.models.design import DecoderAxes
from halcyon.models.expert_decoder import ExpertDecoder, ExpertDesign
from halcyon.models.families.designs import design_of, router_losses
from halcyon.models.parts.experts import gate_of
from halcyon.models.parts.latent_attention import LatentAttention
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.rotary import Rope
from halcyon.models.parts.routing import Routing
from halcyon_api.spec.families.deepseek import CorrectedSection, DeepseekV3Spec, Glm4MoeSpec

_LATENT_EPSILON = 1e-6
"""Added to the mean square in the norms of latent vectors, whatever the other norms have."""


class DeepseekV3(ExpertDecoder):
    """A DeepSeek V3 decoder."""

    @staticmethod
    def init(spec: DeepseekV3Spec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> DeepseekV3:
        """Random parameters; see `ExpertDecoder.of`."""
        rotary = Axis(axes.ROTARY_SIZE, spec.qk_rope_head_dim)

        def attention(design: ExpertDesign, layers: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> LatentAttention:
            def linear(inputs: tuple[Axis, ...], outputs: tuple[Axis, ...], bias: bool = False) -> Linear:
                return Linear.init(inputs, outputs, stacked=(layers,), std=spec.initializer_range, dtype=dtype, bias=bias, key=next(keys))

            def norm(axis: Axis) -> RmsNorm:
                return RmsNorm.init(axis, stacked=(layers,), epsilon=_LATENT_EPSILON, dtype=dtype, scaling=design.plain.scaling)

            return LatentAttention.init(
                DecoderAxes.of(design.plain.sizes).embed,
                Axis(axes.HEADS, spec.num_attention_heads),
                query_rank=None if spec.q_lora_rank is None else Axis(axes.QUERY_RANK, spec.q_lora_rank),
                kv_rank=Axis(axes.KV_RANK, spec.kv_lora_rank),
                plain=Axis(axes.PLAIN_SIZE, spec.qk_nope_head_dim),
                rotary=rotary,
                value_size=Axis(axes.VALUE_SIZE, spec.v_head_dim),
                linear=linear,
                biased=functools.partial(linear, bias=spec.attention_bias),
                norm=norm,
                scale=_score_scale(spec),
            )

        design = dataclasses.replace(_design_of(spec), attention=attention, rotated=rotary)
        return DeepseekV3.of(design, vocab, max_position, dtype, key=key)


class Glm4Moe(ExpertDecoder):
    """A GLM 4.5 decoder."""

    @staticmethod
    def init(spec: Glm4MoeSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Glm4Moe:
        """Random parameters; see `ExpertDecoder.of`."""
        design = _design_of(spec)
        rope = Rope(spec.rope_theta, spec.rope_scaling, spec.partial_rotary_factor)
        plain = dataclasses.replace(design.plain, kinds=(BlockKind(rope),) * spec.num_hidden_layers)
        return Glm4Moe.of(dataclasses.replace(design, plain=plain), vocab, max_position, dtype, key=key)


def _design_of(spec: CorrectedSection) -> ExpertDesign:
    return ExpertDesign(
        plain=design_of(spec, spec.hidden_act),
        experts=spec.experts(),
        routing=Routing(
            spec.num_experts_per_tok,
            "sigmoid",
            normalised=spec.norm_topk_prob,
            scale=spec.routed_scaling_factor,
            groups=spec.n_group,
            kept_groups=spec.topk_group,
        ),
        losses=router_losses(spec)._replace(correction=spec.router_correction_coef),
        combine=gate_of(spec.hidden_act),
    )


def _score_scale(spec: DeepseekV3Spec) -> float:
    """1 / sqrt(features of a head), and for scaled positions with ``mscaleAllDim`` times ``(0.1 mscaleAllDim ln(factor) + 1)^2``."""
    plain, scaling = spec.head_size**-0.5, spec.rope_scaling
    if scaling is None or scaling.rope_type == "default" or not scaling.mscale_all_dim:
        return plain
    factor = scaling.factor or 1.0
    return plain * (1.0 if factor <= 1 else 0.1 * scaling.mscale_all_dim * math.log(factor) + 1.0) ** 2
