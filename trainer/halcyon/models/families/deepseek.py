"""DeepSeek V3 (DeepSeek-AI 2024), of which Kimi K2 is a size, and GLM 4.5 (GLM Team 2025).

Both have MLPs in their first layers, then experts beside a shared MLP, and routers with the sigmoid and a correction.
DeepSeek V3 has latent attention; its files have the pairs of features that rotate together as neighbours, our
parameters half a head apart. GLM 4.5 has grouped-query attention and rotates a part of each head.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from haliax import Axis

from halcyon.models import axes
from halcyon.models.design import Design, LayersInit
from halcyon.models.families.family import decoder_family, design_of, mixture_of
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.rotary import grown
from halcyon.models.parts.routing import Routing
from halcyon.models.parts.self_attention import LatentAttention
from halcyon.models.published import (
    ConfigReader,
    DecoderConfig,
    Layers,
    PublishedModel,
    Tensor,
    Tensors,
    decoder_tensors,
)
from halcyon.models.published.decoder_config import REQUIRED
from halcyon_api.spec.families.deepseek import CorrectedSection, DeepseekV3Spec, Glm4MoeSpec

_LATENT_EPSILON = 1e-6
"""Added to the mean square in the norms of latent vectors, whatever the other norms have."""


def design(spec: CorrectedSection) -> Design:
    """What the decoder of GLM 4.5 is made of, and that of DeepSeek V3 but its attention."""
    partial = spec.partial_rotary_factor if isinstance(spec, Glm4MoeSpec) else 1.0
    routing = Routing(
        spec.num_experts_per_tok,
        "sigmoid",
        normalised=spec.norm_topk_prob,
        scale=spec.routed_scaling_factor,
        groups=spec.n_group,
        kept_groups=spec.topk_group,
    )
    mixture = mixture_of(spec, routing=routing, correction=spec.router_correction_coef)
    return design_of(spec, partial=partial, mixture=mixture)


def latent_design(spec: DeepseekV3Spec) -> Design:
    """What the decoder of DeepSeek V3 is made of."""
    rotary = Axis(axes.ROTARY_SIZE, spec.qk_rope_head_dim)

    def attention(init: LayersInit) -> LatentAttention:
        linear, stacked, scaling = init.linear, (init.layers,), init.design.scaling
        biased = functools.partial(linear, bias=spec.attention_bias)  # to a latent vector, or into the residual stream

        def norm(axis: Axis) -> RmsNorm:
            return RmsNorm.init(axis, stacked=stacked, epsilon=_LATENT_EPSILON, dtype=init.dtype, scaling=scaling)

        embed, heads = init.design.axes.embed, Axis(axes.HEADS, spec.num_attention_heads)
        rank, plain = Axis(axes.KV_RANK, spec.kv_lora_rank), Axis(axes.PLAIN_SIZE, spec.qk_nope_head_dim)
        query_rank = None if spec.q_lora_rank is None else Axis(axes.QUERY_RANK, spec.q_lora_rank)
        source, value_size = query_rank or embed, Axis(axes.VALUE_SIZE, spec.v_head_dim)
        return LatentAttention(
            query_down=None if query_rank is None else biased((embed,), (query_rank,)),
            query_latent_norm=None if query_rank is None else norm(query_rank),
            query_plain=linear((source,), (heads, plain)),
            query_rotary=linear((source,), (heads, rotary)),
            latent=biased((embed,), (rank,)),
            latent_norm=norm(rank),
            key_rotary=biased((embed,), (rotary,)),
            key_plain=linear((rank,), (heads, plain)),
            value=linear((rank,), (heads, value_size)),
            output=biased((heads, value_size), (embed,)),
            plain=plain,
            rotary=rotary,
            value_size=value_size,
            scale=_score_scale(spec),
        )

    return dataclasses.replace(design(spec), attention=attention, rotated=rotary)


def _score_scale(spec: DeepseekV3Spec) -> float:
    """1 / sqrt(features of a head), and for scaled positions with ``mscaleAllDim`` times ``(0.1 mscaleAllDim ln(factor)
    + 1)^2``.
    """
    plain, scaling = spec.head_size**-0.5, spec.rope_scaling
    if scaling is None or scaling.rope_type == "default" or not scaling.mscale_all_dim:
        return plain
    return plain * grown(scaling, scaling.mscale_all_dim) ** 2


def tensors(spec: Glm4MoeSpec) -> Tensors:
    """The tensors of ``Glm4MoeForCausalLM``."""
    return decoder_tensors(spec, mixture=_mixture(spec))


def latent_tensors(spec: DeepseekV3Spec) -> Tensors:
    """The tensors of ``DeepseekV3ForCausalLM``."""
    heads, rank, plain, rotary = axes.HEADS, axes.KV_RANK, axes.PLAIN_SIZE, axes.ROTARY_SIZE
    orders = {rotary: _neighbours} if spec.rope_interleave else {}
    source = axes.EMBED if spec.q_lora_rank is None else axes.QUERY_RANK

    def attention(layers: Layers) -> list[Tensor]:
        found = [
            layers.fused(
                f"self_attn.{'q_proj' if spec.q_lora_rank is None else 'q_b_proj'}.weight",
                0,
                1,
                layers.piece("attention.query_plain.weight", (heads, plain), source),
                layers.piece("attention.query_rotary.weight", (heads, rotary), source, orders=orders),
            ),
            layers.fused(
                "self_attn.kv_a_proj_with_mqa.weight",
                0,
                0,
                layers.piece("attention.latent.weight", rank, axes.EMBED),
                layers.piece("attention.key_rotary.weight", rotary, axes.EMBED, orders=orders),
            ),
            layers.tensor("self_attn.kv_a_layernorm.weight", "attention.latent_norm.weight", rank),
            layers.fused(
                "self_attn.kv_b_proj.weight",
                0,
                1,
                layers.piece("attention.key_plain.weight", (heads, plain), rank),
                layers.piece("attention.value.weight", (heads, axes.VALUE_SIZE), rank),
            ),
            *layers.linear(
                "self_attn.o_proj", "attention.output", axes.EMBED, (heads, axes.VALUE_SIZE), spec.attention_bias
            ),
        ]
        if spec.attention_bias:
            biases = (
                layers.piece("attention.latent.bias", rank),
                layers.piece("attention.key_rotary.bias", rotary, orders=orders),
            )
            found.append(layers.fused("self_attn.kv_a_proj_with_mqa.bias", 0, 0, *biases))
        if spec.q_lora_rank is not None:
            found += layers.linear(
                "self_attn.q_a_proj", "attention.query_down", axes.QUERY_RANK, axes.EMBED, spec.attention_bias
            )
            found.append(
                layers.tensor("self_attn.q_a_layernorm.weight", "attention.query_latent_norm.weight", axes.QUERY_RANK)
            )
        return found

    return decoder_tensors(spec, mixture=_mixture(spec), attention=attention)


def _mixture(spec: CorrectedSection) -> Callable[[Layers], list[Tensor]]:
    def of(layers: Layers) -> list[Tensor]:
        found = layers.experts()
        found.append(layers.tensor("mlp.gate.e_score_correction_bias", "mlp.router.correction", axes.ROUTES))
        return found + (layers.mlp("mlp.shared_experts", "mlp.shared") if spec.n_shared_experts else [])

    return of


def _neighbours(size: int) -> np.ndarray:
    """The index in the file of each rotated feature: the first of all pairs, then the second of all."""
    return np.concatenate((np.arange(0, size, 2), np.arange(1, size, 2)))


_DEFAULTS = {
    "hidden_act": "silu",
    "attention_bias": False,
    "moe_intermediate_size": REQUIRED,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
    "router_aux_loss_coef": 0.0,  # neither class has a balance loss
}
_COMPUTED = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}
"""Keys of DeepSeek V3 with the one value that is computed."""
_BALANCE, _BY_SEQUENCE = "aux_loss_alpha", "seq_aux"
"""Keys of DeepSeek V3: the factor of a balance loss that is 1 at an even load, and whether it is one of sequences."""
_DEEPSEEK = DecoderConfig(
    DeepseekV3Spec,
    {
        **_DEFAULTS,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "rope_interleave": True,
    },
    constants={"num_nextn_predict_layers": 0, **_COMPUTED},
    also=("mscale_all_dim",),  # it changes the scale of scores, whatever the kind of scaling
)
_GLM = DecoderConfig(
    Glm4MoeSpec,
    {
        **_DEFAULTS,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "use_qk_norm": False,
        "n_routed_experts": 128,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "first_k_dense_replace": 1,
    },
    constants={"num_nextn_predict_layers": 0},
    partial=0.5,
)


def _read_deepseek(config: ConfigReader) -> DeepseekV3Spec:
    config.all_only(_COMPUTED)
    spec = _DEEPSEEK.read(config, head_dim=None, num_key_value_heads=None)
    factor = config.number(_BALANCE, 0.0)
    if not factor or config.has("router_aux_loss_coef"):
        return spec
    config.only(_BY_SEQUENCE, True)
    return spec.but(router_aux_loss_coef=factor / spec.num_experts_per_tok)


def _write_deepseek(spec: DeepseekV3Spec, positions: int) -> dict[str, Any]:
    balance = {_BALANCE: spec.router_aux_loss_coef * spec.num_experts_per_tok, _BY_SEQUENCE: True}
    return {**_DEEPSEEK.write(spec, positions), **balance, "head_dim": spec.qk_rope_head_dim}


DEEPSEEK_V3 = decoder_family(
    DeepseekV3Spec,
    latent_design,
    PublishedModel("deepseek_v3", ("DeepseekV3ForCausalLM",), latent_tensors, _read_deepseek, _write_deepseek),
)
GLM4_MOE = decoder_family(
    Glm4MoeSpec, design, PublishedModel("glm4_moe", ("Glm4MoeForCausalLM",), tensors, _GLM.read, _GLM.write, classes="")
)
