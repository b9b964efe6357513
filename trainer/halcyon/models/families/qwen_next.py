"""Qwen3-Next and Qwen 3.5 (Qwen Team 2025): gated delta nets beside attention with a gate, with an MLP or experts in each layer.

Three layers with a gated delta net follow each other, then one with attention. The norms have a factor of
1 + weight, except those of the outputs of a gated delta net. Attention rotates a part of each head.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models import axes
from halcyon.models.block_kinds import BlockKind
from halcyon.models.design import DecoderAxes, self_attention
from halcyon.models.expert_decoder import ExpertDesign
from halcyon.models.families.designs import design_of, router_losses
from halcyon.models.hybrid_decoder import HybridDecoder, HybridDesign
from halcyon.models.parts.experts import gate_of
from halcyon.models.parts.gated_delta_net import DeltaAxes, GatedDeltaNet
from halcyon.models.parts.rotary import Rope
from halcyon.models.parts.routing import Routing
from halcyon.models.parts.self_attention import SelfAttention
from halcyon_api.spec.families.qwen_next import Qwen3NextSpec


class Qwen3Next(HybridDecoder):
    """A Qwen3-Next or Qwen 3.5 decoder."""

    @staticmethod
    def init(spec: Qwen3NextSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Qwen3Next:
        """Random parameters; see `HybridDecoder.of`."""
        rope = Rope(spec.rope_theta, spec.rope_scaling, spec.partial_rotary_factor)
        kinds = (BlockKind(rope),) * spec.num_hidden_layers
        design = HybridDesign(
            of_layers=ExpertDesign(
                plain=dataclasses.replace(design_of(spec, spec.hidden_act), scaling="offset", kinds=kinds),
                experts=spec.experts(),
                routing=Routing(spec.num_experts_per_tok, normalised=spec.norm_topk_prob),
                losses=router_losses(spec),
                combine=gate_of(spec.hidden_act),
                attention=_gated_attention,
            ),
            linear=functools.partial(_delta_net, spec),
            is_linear=tuple(mixer == "linear_attention" for mixer in spec.mixers),
        )
        return Qwen3Next.of(design, vocab, max_position, dtype, key=key)


def _gated_attention(design: ExpertDesign, layers: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> SelfAttention:
    return self_attention(design.plain, layers, dtype, keys, gated=True)


def _delta_net(spec: Qwen3NextSpec, design: ExpertDesign, layers: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> GatedDeltaNet:
    key_heads = spec.linear_num_key_heads
    return GatedDeltaNet.init(
        DeltaAxes(
            embed=DecoderAxes.of(design.plain.sizes).embed,
            key_heads=Axis(axes.KV_HEADS, key_heads),
            value_heads=Axis(axes.Q_HEADS_PER_GROUP, spec.linear_num_value_heads // key_heads),
            key_size=Axis(axes.HEAD_SIZE, spec.linear_key_head_dim),
            value_size=Axis(axes.VALUE_SIZE, spec.linear_value_head_dim),
        ),
        spec.linear_conv_kernel_dim,
        spec.hidden_act,
        stacked=(layers,),
        std=spec.initializer_range,
        epsilon=spec.rms_norm_eps,
        dtype=dtype,
        key=next(keys),
    )
