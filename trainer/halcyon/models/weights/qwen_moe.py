"""Qwen 3 with experts in the form of Hugging Face (``Qwen3MoeForCausalLM``)."""

from __future__ import annotations

from typing import Any, cast

from halcyon.errors import BadConfiguration
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import read_activation, read_decoder, read_window, write_decoder
from halcyon.models.weights.expert_decoder import expert_decoder_tensors, read_losses
from halcyon.models.weights.family import Family
from halcyon.models.weights.layers import SEPARATE
from halcyon.models.weights.tensors import Tensors
from halcyon_api.spec.families.qwen_moe import Qwen3MoeSpec


def _tensors(spec: Qwen3MoeSpec) -> Tensors:
    return expert_decoder_tensors(spec, lambda layers: layers.experts("mlp.gate", "mlp.experts", SEPARATE))


def read_dense_layers(config: ConfigReader) -> list[int]:
    """``mlp_only_layers``.

    Raises:
        BadConfiguration: It is no list of numbers.
    """
    found = config.document.get("mlp_only_layers") or []
    if not isinstance(found, list) or not all(isinstance(one, int) for one in cast("list[Any]", found)):
        raise BadConfiguration(f"{config.where}: mlp_only_layers must be a list of the numbers of layers")
    return cast("list[int]", found)


def _read(config: ConfigReader) -> Qwen3MoeSpec:
    window = read_window(config, 4096)
    return Qwen3MoeSpec(
        **read_decoder(config, key_value_heads=4),
        **read_losses(config),
        hidden_act=read_activation(config, "hidden_act", "silu"),
        attention_bias=config.flag("attention_bias", False),
        use_sliding_window=config.flag("use_sliding_window", False) and window is not None,
        sliding_window=window,
        num_experts=config.integer("num_experts", config.integer("num_local_experts", 128)),
        num_experts_per_tok=config.integer("num_experts_per_tok", 8),
        moe_intermediate_size=config.integer("moe_intermediate_size", 768),
        norm_topk_prob=config.flag("norm_topk_prob", False),
        decoder_sparse_step=config.integer("decoder_sparse_step", 1),
        mlp_only_layers=read_dense_layers(config),
    )


def _write(spec: Qwen3MoeSpec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    return {
        **write_decoder(spec, positions),
        "hidden_act": spec.hidden_act,
        "attention_bias": spec.attention_bias,
        "use_sliding_window": spec.use_sliding_window,
        "sliding_window": spec.window if spec.use_sliding_window else None,
        "num_experts": spec.num_experts,
        "num_local_experts": spec.num_experts,  # its name in newer versions of transformers
        "num_experts_per_tok": spec.num_experts_per_tok,
        "moe_intermediate_size": spec.moe_intermediate_size,
        "norm_topk_prob": spec.norm_topk_prob,
        "decoder_sparse_step": spec.decoder_sparse_step,
        "mlp_only_layers": spec.mlp_only_layers,
        "router_aux_loss_coef": spec.router_aux_loss_coef,
        "output_router_logits": False,
    }


QWEN3_MOE = Family(Qwen3MoeSpec, "qwen3_moe", ("Qwen3MoeForCausalLM",), _tensors, _read, _write)
