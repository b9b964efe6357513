"""Qwen3-Next (Qwen Team 2025) and Qwen 3.5 (Qwen Team 2026): gated delta nets beside attention with a gate.

Each has a mixer of positions in its layers: three gated delta nets follow each other, then attention. The norms have a factor of
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
from halcyon.models.decoder import BlockKind, DecoderAxes
from halcyon.models.expert_decoder import ExpertDesign, self_attention
from halcyon.models.families.designs import design_of, router_losses
from halcyon.models.hybrid_decoder import HybridDecoder, HybridDesign
from halcyon.models.parts.experts import gate_of
from halcyon.models.parts.gated_delta_net import DeltaAxes, GatedDeltaNet
from halcyon.models.parts.moe import RouterLosses
from halcyon.models.parts.rotary import Rope
from halcyon.models.parts.routing import Routing
from halcyon_api.spec.families.qwen_next import DeltaExpertsSection, DeltaSection, Qwen3NextSpec, Qwen35MoeSpec, Qwen35Spec


class Qwen35(HybridDecoder):
    """A dense Qwen 3.5 text decoder."""

    @staticmethod
    def init(spec: Qwen35Spec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Qwen35:
        """Random parameters; see `HybridDecoder.of`."""
        return Qwen35.of(_design_of(spec, Routing(1), RouterLosses(0.0, 0.0)), vocab, max_position, dtype, key=key)


class Qwen35Moe(HybridDecoder):
    """A Qwen 3.5 text decoder with experts."""

    @staticmethod
    def init(spec: Qwen35MoeSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Qwen35Moe:
        """Random parameters; see `HybridDecoder.of`."""
        return Qwen35Moe.of(_with_experts(spec, normalised=True), vocab, max_position, dtype, key=key)


class Qwen3Next(HybridDecoder):
    """A Qwen3-Next decoder."""

    @staticmethod
    def init(spec: Qwen3NextSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Qwen3Next:
        """Random parameters; see `HybridDecoder.of`."""
        return Qwen3Next.of(_with_experts(spec, normalised=spec.norm_topk_prob), vocab, max_position, dtype, key=key)


def _with_experts(spec: DeltaExpertsSection, *, normalised: bool) -> HybridDesign:
    return _design_of(spec, Routing(spec.num_experts_per_tok, normalised=normalised), router_losses(spec))


def _design_of(spec: DeltaSection, routing: Routing, losses: RouterLosses) -> HybridDesign:
    rope = Rope(spec.rope_theta, spec.rope_scaling, spec.partial_rotary_factor)
    plain = dataclasses.replace(
        design_of(spec, spec.hidden_act), scaling="offset", kinds=(BlockKind(rope),) * spec.num_hidden_layers
    )
    return HybridDesign(
        of_layers=ExpertDesign(
            plain=plain,
            experts=spec.experts(),
            routing=routing,
            losses=losses,
            combine=gate_of(spec.hidden_act),
            attention=_gated_attention,
        ),
        linear=functools.partial(_delta_net, spec),
        is_linear=tuple(mixer == "linear_attention" for mixer in spec.mixers),
    )


def _gated_attention(design: ExpertDesign, layers: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]) -> object:
    return self_attention(design, layers, dtype, keys, gated=True)


def _delta_net(
    spec: DeltaSection, design: ExpertDesign, layers: Axis, dtype: jnp.dtype, keys: Iterator[PRNGKeyArray]
) -> GatedDeltaNet:
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
