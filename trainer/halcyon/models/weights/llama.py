"""Llama in the form of Hugging Face (``LlamaForCausalLM``)."""

from __future__ import annotations

from typing import Any

from halcyon.models.axes import EMBED, HEAD_SIZE, KV_HEADS, MLP, Q_HEADS_PER_GROUP, VOCAB
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.family import Family
from halcyon.models.weights.rope import Rope, read_rope, require_rope, write_rope
from halcyon.models.weights.tensors import Tensors, tensor
from halcyon_api.spec.families.llama import LlamaSpec

QUERIES = (KV_HEADS, Q_HEADS_PER_GROUP, HEAD_SIZE)
KEYS = (KV_HEADS, HEAD_SIZE)


def _tensors(spec: LlamaSpec) -> Tensors:
    layer, block = "model.layers.{layers}", "blocks.stacked"
    tables = [tensor("model.embed_tokens.weight", "embedding.weight", VOCAB, EMBED), tensor("model.norm.weight", "norm.weight", EMBED)]
    if not spec.tie_embeddings:
        tables.append(tensor("lm_head.weight", "untied_head.weight", VOCAB, EMBED))
    return Tensors(
        (
            *tables,
            tensor(f"{layer}.input_layernorm.weight", f"{block}.attention_norm.weight", EMBED),
            tensor(f"{layer}.self_attn.q_proj.weight", f"{block}.attention.query.weight", QUERIES, EMBED),
            tensor(f"{layer}.self_attn.k_proj.weight", f"{block}.attention.key.weight", KEYS, EMBED),
            tensor(f"{layer}.self_attn.v_proj.weight", f"{block}.attention.value.weight", KEYS, EMBED),
            tensor(f"{layer}.self_attn.o_proj.weight", f"{block}.attention.output.weight", EMBED, QUERIES),
            tensor(f"{layer}.post_attention_layernorm.weight", f"{block}.mlp_norm.weight", EMBED),
            tensor(f"{layer}.mlp.gate_proj.weight", f"{block}.mlp.gate.weight", MLP, EMBED),
            tensor(f"{layer}.mlp.up_proj.weight", f"{block}.mlp.up.weight", MLP, EMBED),
            tensor(f"{layer}.mlp.down_proj.weight", f"{block}.mlp.down.weight", EMBED, MLP),
        ),
        ignored=(r".*\.rotary_emb\.inv_freq", *(("lm_head.weight",) if spec.tie_embeddings else ())),
    )


def _read(config: ConfigReader) -> LlamaSpec:
    config.only("hidden_act", "silu", "swish")
    config.only("attention_bias", False)
    config.only("mlp_bias", False)
    rope = require_rope(config, read_rope(config, 10_000.0), "default")
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    config.only("head_dim", width // heads)
    return LlamaSpec(
        layers=config.integer("num_hidden_layers"),
        hidden_size=width,
        intermediate_size=config.integer("intermediate_size"),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", heads),
        rope_theta=rope.theta,
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
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
        "head_dim": spec.hidden_size // spec.heads,
        "hidden_act": "silu",
        "max_position_embeddings": positions,
        "rms_norm_eps": spec.norm_epsilon,
        "initializer_range": spec.initializer_std,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": spec.tie_embeddings,
        **write_rope(Rope(spec.rope_theta)),
    }


LLAMA = Family(LlamaSpec, "llama", ("LlamaForCausalLM",), _tensors, _read, _write)
