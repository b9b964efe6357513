"""DeepSeek V3 and GLM 4.5 in the form of Hugging Face (``DeepseekV3ForCausalLM``, ``Glm4MoeForCausalLM``).

The files of DeepSeek V3 have the pairs that rotate together as neighbours; our parameters have them half a head apart.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from halcyon.models.axes import EMBED, HEADS, KV_RANK, PLAIN_SIZE, QUERY_RANK, ROTARY_SIZE, ROUTES, VALUE_SIZE
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import read_activation, read_decoder, write_decoder
from halcyon.models.weights.expert_decoder import expert_decoder_tensors, read_losses
from halcyon.models.weights.family import Family
from halcyon.models.weights.layers import LAYER, SEPARATE, Layers
from halcyon.models.weights.rope import read_rope
from halcyon.models.weights.tensors import Join, Tensor, Tensors, piece
from halcyon_api.spec.families.deepseek import CorrectedSection, DeepseekV3Spec, Glm4MoeSpec

_FOR_SCORES = ("mscale_all_dim",)
"""Entries of rotary positions that change the scale of scores, whatever the kind of scaling."""
_MOST_EXTRA_LAYERS = 4
"""Layers after the last one, which predict further tokens and are not read."""


def _tensors_deepseek(spec: DeepseekV3Spec) -> Tensors:
    orders = {ROTARY_SIZE: _neighbours} if spec.rope_interleave else {}
    source = EMBED if spec.q_lora_rank is None else QUERY_RANK

    def attention(layers: Layers) -> list[Tensor]:
        path = f"{layers.block}.attention"

        def fused(name: str, *pieces: Any, within: int) -> Tensor:
            return Tensor(f"{LAYER}.self_attn.{name}", pieces, Join(0, within), layers.numbers)

        found = [
            fused(
                "q_proj.weight" if spec.q_lora_rank is None else "q_b_proj.weight",
                piece(f"{path}.query_plain.weight", (HEADS, PLAIN_SIZE), source),
                piece(f"{path}.query_rotary.weight", (HEADS, ROTARY_SIZE), source, orders=orders),
                within=1,
            ),
            fused(
                "kv_a_proj_with_mqa.weight",
                piece(f"{path}.latent.weight", KV_RANK, EMBED),
                piece(f"{path}.key_rotary.weight", ROTARY_SIZE, EMBED, orders=orders),
                within=0,
            ),
            layers.tensor("self_attn.kv_a_layernorm.weight", "attention.latent_norm.weight", KV_RANK),
            fused(
                "kv_b_proj.weight",
                piece(f"{path}.key_plain.weight", (HEADS, PLAIN_SIZE), KV_RANK),
                piece(f"{path}.value.weight", (HEADS, VALUE_SIZE), KV_RANK),
                within=1,
            ),
            *layers.linear("self_attn.o_proj", "attention.output", EMBED, (HEADS, VALUE_SIZE), spec.attention_bias),
        ]
        if spec.attention_bias:
            biases = (piece(f"{path}.latent.bias", KV_RANK), piece(f"{path}.key_rotary.bias", ROTARY_SIZE, orders=orders))
            found.append(fused("kv_a_proj_with_mqa.bias", *biases, within=0))
        if spec.q_lora_rank is not None:
            found += layers.linear("self_attn.q_a_proj", "attention.query_down", QUERY_RANK, EMBED, spec.attention_bias)
            found.append(layers.tensor("self_attn.q_a_layernorm.weight", "attention.query_latent_norm.weight", QUERY_RANK))
        return found

    return expert_decoder_tensors(spec, _mixture(spec), attention=attention, ignored_layers=_extra_layers(spec))


def _tensors_glm(spec: Glm4MoeSpec) -> Tensors:
    return expert_decoder_tensors(spec, _mixture(spec), ignored_layers=_extra_layers(spec))


def _mixture(spec: CorrectedSection) -> Any:
    def of(layers: Layers) -> list[Tensor]:
        found = layers.experts("mlp.gate", "mlp.experts", SEPARATE)
        found.append(layers.tensor("mlp.gate.e_score_correction_bias", "mlp.router.correction", ROUTES))
        return found + (layers.mlp("mlp.shared_experts", "mlp.shared") if spec.n_shared_experts else [])

    return of


def _neighbours(size: int) -> np.ndarray:
    """The index in the file of each rotated feature: the first of all pairs, then the second of all."""
    return np.concatenate((np.arange(0, size, 2), np.arange(1, size, 2)))


def _extra_layers(spec: CorrectedSection) -> tuple[tuple[str, str], ...]:
    """Only layers that predict further tokens have this projection. Without it, config.json has fewer layers than the files."""
    numbers = "|".join(str(spec.num_hidden_layers + extra) for extra in range(_MOST_EXTRA_LAYERS))
    return ((rf"model\.layers\.({numbers})\.", "eh_proj.weight"),)


def _common(config: ConfigReader, routed: int, dense: int, group: int, kept: int, scale: float) -> dict[str, Any]:
    """The fields of routers and experts; the numbers are the defaults of the class in transformers."""
    return {
        **read_losses(config),
        "hidden_act": read_activation(config, "hidden_act", "silu"),
        "moe_intermediate_size": config.integer("moe_intermediate_size"),
        "n_routed_experts": config.integer("n_routed_experts", routed),
        "n_shared_experts": config.integer("n_shared_experts", 1),
        "num_experts_per_tok": config.integer("num_experts_per_tok", 8),
        "n_group": config.integer("n_group", group),
        "topk_group": config.integer("topk_group", kept),
        "norm_topk_prob": config.flag("norm_topk_prob", True),
        "routed_scaling_factor": config.number("routed_scaling_factor", scale),
        "first_k_dense_replace": config.integer("first_k_dense_replace", dense),
    }


def _read_deepseek(config: ConfigReader) -> DeepseekV3Spec:
    config.only("scoring_func", "sigmoid")
    config.only("topk_method", "noaux_tc")
    config.only("moe_layer_freq", 1)
    common = read_decoder(config, also=_FOR_SCORES) | {"head_dim": None, "num_key_value_heads": None}
    return DeepseekV3Spec(
        **common,
        **_common(config, 256, 3, 8, 4, 2.5),
        attention_bias=config.flag("attention_bias", False),
        q_lora_rank=None if config.document.get("q_lora_rank", 0) is None else config.integer("q_lora_rank", 1536),
        kv_lora_rank=config.integer("kv_lora_rank", 512),
        qk_nope_head_dim=config.integer("qk_nope_head_dim", 128),
        qk_rope_head_dim=config.integer("qk_rope_head_dim", 64),
        v_head_dim=config.integer("v_head_dim", 128),
        rope_interleave=config.flag("rope_interleave", True),
    )


def _read_glm(config: ConfigReader) -> Glm4MoeSpec:
    part = read_rope(config, 10_000.0, partial=True).part
    return Glm4MoeSpec(
        **read_decoder(config, epsilon=1e-5, key_value_heads=8, partial=True),
        **_common(config, 128, 1, 1, 1, 1.0),
        attention_bias=config.flag("attention_bias", False),
        use_qk_norm=config.flag("use_qk_norm", False),
        partial_rotary_factor=0.5 if part is None else part,
    )


def _written(spec: CorrectedSection, positions: int, also: Collection[str] = ()) -> dict[str, Any]:
    return {
        **write_decoder(spec, positions, also=also),
        "hidden_act": spec.hidden_act,
        "moe_intermediate_size": spec.moe_intermediate_size,
        "n_routed_experts": spec.n_routed_experts,
        "n_shared_experts": spec.n_shared_experts,
        "num_experts_per_tok": spec.num_experts_per_tok,
        "n_group": spec.n_group,
        "topk_group": spec.topk_group,
        "norm_topk_prob": spec.norm_topk_prob,
        "routed_scaling_factor": spec.routed_scaling_factor,
        "first_k_dense_replace": spec.first_k_dense_replace,
        "num_nextn_predict_layers": 0,
    }


def _write_deepseek(spec: DeepseekV3Spec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    return {
        **_written(spec, positions, _FOR_SCORES),
        "head_dim": spec.qk_rope_head_dim,
        "num_key_value_heads": spec.num_attention_heads,
        "q_lora_rank": spec.q_lora_rank,
        "kv_lora_rank": spec.kv_lora_rank,
        "qk_nope_head_dim": spec.qk_nope_head_dim,
        "qk_rope_head_dim": spec.qk_rope_head_dim,
        "v_head_dim": spec.v_head_dim,
        "rope_interleave": spec.rope_interleave,
        "attention_bias": spec.attention_bias,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "moe_layer_freq": 1,
    }


def _write_glm(spec: Glm4MoeSpec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    written = _written(spec, positions)
    return {
        **written,
        "attention_bias": spec.attention_bias,
        "use_qk_norm": spec.use_qk_norm,
        "partial_rotary_factor": spec.partial_rotary_factor,
        "rope_parameters": {**written["rope_parameters"], "partial_rotary_factor": spec.partial_rotary_factor},
    }


DEEPSEEK_V3 = Family(DeepseekV3Spec, "deepseek_v3", ("DeepseekV3ForCausalLM",), _tensors_deepseek, _read_deepseek, _write_deepseek)
GLM4_MOE = Family(Glm4MoeSpec, "glm4_moe", ("Glm4MoeForCausalLM",), _tensors_glm, _read_glm, _write_glm)
