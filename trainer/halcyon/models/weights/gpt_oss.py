"""gpt-oss in the form of Hugging Face (``GptOssForCausalLM``), with weights in a floating-point type.

The matrices of experts are [in, out], all experts in one tensor, and the outputs of gate and up alternate.
"""

from __future__ import annotations

from typing import Any

from halcyon.models.axes import EMBED, EXPERTS, MLP, ROUTES
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import read_decoder, read_layer_types, read_window, write_decoder
from halcyon.models.weights.expert_decoder import expert_decoder_tensors, read_losses
from halcyon.models.weights.family import Family
from halcyon.models.weights.layers import LAYER, Layers
from halcyon.models.weights.rope import with_default_rope
from halcyon.models.weights.tensors import Join, Tensor, Tensors, piece
from halcyon_api.spec.families.gpt_oss import GptOssSpec

_PUBLISHED_ROPE = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}
"""The rotary positions of a config.json that states none: the default of the class in transformers."""


def _mixture(layers: Layers) -> list[Tensor]:
    path = f"{layers.block}.mlp.experts"
    fused = tuple(piece(f"{path}.{name}", EXPERTS, EMBED, MLP) for name in ("gate", "up"))
    biases = tuple(piece(f"{path}.{name}_bias", EXPERTS, MLP) for name in ("gate", "up"))
    return [
        *layers.linear("mlp.router", "mlp.router", ROUTES, EMBED, bias=True),
        Tensor(f"{LAYER}.mlp.experts.gate_up_proj", fused, Join(2, 1), layers.numbers),
        Tensor(f"{LAYER}.mlp.experts.gate_up_proj_bias", biases, Join(1, 1), layers.numbers),
        layers.tensor("mlp.experts.down_proj", "mlp.experts.down", EXPERTS, MLP, EMBED),
        layers.tensor("mlp.experts.down_proj_bias", "mlp.experts.down_bias", EXPERTS, EMBED),
    ]


def _tensors(spec: GptOssSpec) -> Tensors:
    return expert_decoder_tensors(spec, _mixture)


def _read(config: ConfigReader) -> GptOssSpec:
    config.only("hidden_act", "silu")
    config = with_default_rope(config, _PUBLISHED_ROPE)
    common = read_decoder(config, theta=150_000.0, epsilon=1e-5, key_value_heads=8)
    common["head_dim"] = common["head_dim"] or 64  # the default of the class in transformers
    types, window = read_layer_types(config), read_window(config, 128)
    if window is None:
        types, window = ["full_attention"] * common["num_hidden_layers"], 128
    return GptOssSpec(
        **common,
        **read_losses(config),
        attention_bias=config.flag("attention_bias", True),
        sliding_window=window,
        layer_types=types,
        swiglu_alpha=config.number("swiglu_alpha", 1.702),
        swiglu_limit=config.number("swiglu_limit", 7.0),
        num_local_experts=config.integer("num_local_experts", 128),
        num_experts_per_tok=config.integer("num_experts_per_tok", 4),
    )


def _write(spec: GptOssSpec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    return {
        **write_decoder(spec, positions, always_scaling=True),
        "hidden_act": "silu",
        "attention_bias": spec.attention_bias,
        "sliding_window": spec.sliding_window,
        "layer_types": list(spec.layers_by_type),
        "swiglu_alpha": spec.swiglu_alpha,
        "swiglu_limit": spec.swiglu_limit,
        "num_local_experts": spec.num_local_experts,
        "num_experts_per_tok": spec.num_experts_per_tok,
        "experts_per_token": spec.num_experts_per_tok,
        "router_aux_loss_coef": spec.router_aux_loss_coef,
        "output_router_logits": False,
    }


GPT_OSS = Family(GptOssSpec, "gpt_oss", ("GptOssForCausalLM",), _tensors, _read, _write)
