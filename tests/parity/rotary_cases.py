"""The small models of `tests.parity.rotary`. Needs neither torch nor this project."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 8,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
LATENT = {
    "q_lora_rank": 4,
    "kv_lora_rank": 4,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 16,
    "v_head_dim": 8,
    "num_key_value_heads": 2,
}
EXPERTS = {"n_routed_experts": 2, "num_experts_per_tok": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 2}
BOTH_KINDS = {"layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "gemma3_text": ("Gemma3ForCausalLM", BOTH_KINDS),
    "olmo3": ("Olmo3ForCausalLM", BOTH_KINDS),
    "gpt_oss": ("GptOssForCausalLM", {**BOTH_KINDS, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", {**LATENT, **EXPERTS}),
    "glm4_moe": ("Glm4MoeForCausalLM", EXPERTS),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        {"num_experts": 0, "mlp_only_layers": [0, 1], "layer_types": ["full_attention"] * 2},
    ),
    "apertus": ("ApertusForCausalLM", {}),
}
"""The architecture of each ``model_type``, and the entries that it needs."""
BY_LAYER = ("gemma3_text", "olmo3")
