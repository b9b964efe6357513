"""Qwen 3 with experts (Yang et al. 2025): a Qwen 3 in which some or all layers have experts."""

from __future__ import annotations

from typing import Any

from halcyon.models.decoder import Decoder
from halcyon.models.design import Design
from halcyon.models.families.designs import design_of
from halcyon.models.families.expert_designs import mixture_of
from halcyon.models.families.family import Family
from halcyon.models.families.qwen import windowed
from halcyon.models.published import ConfigReader, DecoderConfig, PublishedForm, Tensors, expert_decoder_tensors
from halcyon_api.spec.families.qwen_moe import Qwen3MoeSpec


def design(spec: Qwen3MoeSpec) -> Design:
    """What the decoder is made of."""
    return design_of(spec, spec.hidden_act, mixture=mixture_of(spec, spec.hidden_act, normalised=spec.norm_topk_prob))


def tensors(spec: Qwen3MoeSpec) -> Tensors:
    """The tensors of ``Qwen3MoeForCausalLM``."""
    return expert_decoder_tensors(spec, lambda layers: layers.experts("mlp.gate", "mlp.experts"))


_CONFIG = DecoderConfig(
    Qwen3MoeSpec,
    {
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "router_aux_loss_coef": 0.001,
    },
    constants={"output_router_logits": False},
)
_NEWER = "num_local_experts"
"""The name of ``num_experts`` in newer versions of transformers."""


def _read(config: ConfigReader) -> Qwen3MoeSpec:
    experts = {} if config.has("num_experts") or not config.has(_NEWER) else {"num_experts": config.integer(_NEWER)}
    return Qwen3MoeSpec(**{**windowed(_CONFIG.fields(config)), **experts})


def _write(spec: Qwen3MoeSpec, positions: int) -> dict[str, Any]:
    window = spec.window if spec.use_sliding_window else None
    return {**_CONFIG.write(spec, positions), "sliding_window": window, _NEWER: spec.num_experts}


QWEN3_MOE = Family(
    Qwen3MoeSpec, design, Decoder.of, (PublishedForm("qwen3_moe", ("Qwen3MoeForCausalLM",), tensors, _read, _write),)
)
