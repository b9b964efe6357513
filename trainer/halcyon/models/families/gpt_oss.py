"""gpt-oss (OpenAI 2025): attention sinks, a window in every other layer, biases everywhere, experts with a clamped
SwiGLU.

The published router takes a softmax over the logits of the chosen experts alone. That is the softmax over all experts,
divided by its sum over the chosen ones.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from halcyon.models.axes import EMBED, EXPERTS, MLP, ROUTES
from halcyon.models.design import Design
from halcyon.models.families.family import decoder_family, design_of, mixture_of
from halcyon.models.parts.experts import Gate
from halcyon.models.published import (
    ConfigReader,
    DecoderConfig,
    Layers,
    PublishedModel,
    Tensor,
    Tensors,
    decoder_tensors,
)
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


def design(spec: GptOssSpec) -> Design:
    """What the decoder is made of."""
    mixture = mixture_of(spec, combine=clamped_gate(spec.swiglu_alpha, spec.swiglu_limit))
    return design_of(spec, "silu", scaling="wide", mixture=mixture)


def tensors(spec: GptOssSpec) -> Tensors:
    """The tensors of ``GptOssForCausalLM``, with weights in a floating-point type.

    The matrices of experts are [in, out], all experts in one tensor, and the outputs of gate and up alternate.
    """

    def mixture(layers: Layers) -> list[Tensor]:
        fused = (layers.piece(f"mlp.experts.{name}", EXPERTS, EMBED, MLP) for name in ("gate", "up"))
        biases = (layers.piece(f"mlp.experts.{name}_bias", EXPERTS, MLP) for name in ("gate", "up"))
        return [
            *layers.linear("mlp.router", "mlp.router", ROUTES, EMBED, bias=True),
            layers.fused("mlp.experts.gate_up_proj", 2, 1, *fused),
            layers.fused("mlp.experts.gate_up_proj_bias", 1, 1, *biases),
            layers.tensor("mlp.experts.down_proj", "mlp.experts.down", EXPERTS, MLP, EMBED),
            layers.tensor("mlp.experts.down_proj_bias", "mlp.experts.down_bias", EXPERTS, EMBED),
        ]

    return decoder_tensors(spec, mixture=mixture)


_WINDOW = 128
_CONFIG = DecoderConfig(
    GptOssSpec,
    {
        "rope_theta": 150_000.0,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "attention_bias": True,
        "sliding_window": _WINDOW,
        "layer_types": None,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "router_aux_loss_coef": 0.001,
    },
    constants={"hidden_act": "silu", "output_router_logits": False},
    rope={"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False},
)


def _read(config: ConfigReader) -> GptOssSpec:
    config.only("hidden_act", "silu")
    fields = _CONFIG.fields(config)
    if fields["sliding_window"] is None:
        fields |= {"layer_types": ["full_attention"] * fields["num_hidden_layers"], "sliding_window": _WINDOW}
    return GptOssSpec(**fields)


def _write(spec: GptOssSpec, positions: int) -> dict[str, Any]:
    return {**_CONFIG.write(spec, positions), "experts_per_token": spec.num_experts_per_tok}


GPT_OSS = decoder_family(GptOssSpec, design, PublishedModel("gpt_oss", ("GptOssForCausalLM",), tensors, _read, _write))
