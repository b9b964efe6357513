"""Llama in the form of Hugging Face (``LlamaForCausalLM``)."""

from __future__ import annotations

from typing import Any

from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import BEFORE, decoder_tensors, read_activation, read_scaling, written_rope
from halcyon.models.weights.family import Family
from halcyon.models.weights.rope import read_rope, write_rope
from halcyon.models.weights.tensors import Tensors
from halcyon_api.spec.families.llama import LlamaSpec


def _tensors(spec: LlamaSpec) -> Tensors:
    return decoder_tensors(spec.sizes(), BEFORE)


def _read(config: ConfigReader) -> LlamaSpec:
    rope = read_rope(config, 10_000.0)
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    return LlamaSpec(
        layers=config.integer("num_hidden_layers"),
        hidden_size=width,
        intermediate_size=config.integer("intermediate_size"),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", heads),
        head_dim=config.integer("head_dim") if config.has("head_dim") else None,
        rope_theta=rope.theta,
        rope_scaling=read_scaling(config, rope),
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
        hidden_act=read_activation(config, "hidden_act", "silu"),
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
        initializer_std=config.number("initializer_range", 0.02),
        tie_embeddings=config.flag("tie_word_embeddings", False),
    )


def _write(spec: LlamaSpec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    return {
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.key_value_heads,
        "head_dim": spec.head_size,
        "hidden_act": spec.hidden_act,
        "max_position_embeddings": positions,
        "rms_norm_eps": spec.norm_epsilon,
        "initializer_range": spec.initializer_std,
        "attention_bias": spec.attention_bias,
        "mlp_bias": spec.mlp_bias,
        "attention_dropout": 0.0,
        "tie_word_embeddings": spec.tie_embeddings,
        **write_rope(written_rope(spec.rope_theta, spec.rope_scaling)),
    }


LLAMA = Family(LlamaSpec, "llama", ("LlamaForCausalLM",), _tensors, _read, _write)
