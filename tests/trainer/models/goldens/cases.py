"""The models of the goldens: the type of each, and its entries of config.json."""

from __future__ import annotations

from typing import Any

from tests.parity.rows import LENGTH, NO_TOKENS

VOCABULARY = 29

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 64,
    "rms_norm_eps": 0.003,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    **NO_TOKENS,
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_inner": 12,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": LENGTH,
    "layer_norm_epsilon": 0.003,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "tie_word_embeddings": True,
    **NO_TOKENS,
}
TIED = {"tie_word_embeddings": True}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 2.0, "beta_slow": 0.5}
OLMO3_ROPE = {
    "full_attention": YARN | {"rope_theta": 1000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}

LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 5}
ROUTED = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "moe_intermediate_size": 5,
    "first_k_dense_replace": 1,
    "num_mtp_layers": 0,
}
LATENT = {key: value for key, value in SMALL.items() if key != "head_dim"} | ROUTED
LATENT |= {"num_key_value_heads": 4, "kv_lora_rank": 6, "qk_nope_head_dim": 4, "qk_rope_head_dim": 6, "v_head_dim": 5}

BERT = {key: value for key, value in SMALL.items() if key not in ("num_key_value_heads", "head_dim", "rms_norm_eps")}
BERT |= {"num_hidden_layers": 5, "cls_token_id": None, "sep_token_id": None} | TIED

DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 7,
    "linear_conv_kernel_dim": 3,
    "head_dim": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 90.0, "partial_rotary_factor": 0.5},
}
SHARED = QWEN_EXPERTS | {"shared_expert_intermediate_size": 7}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SMALL | {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}}),
    "llama-3.1-tied": ("llama", SMALL | TIED | {"rope_parameters": LLAMA3 | {"rope_theta": 5000.0}}),
    "llama-yarn-biases": (
        "llama",
        SMALL
        | {
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_act": "gelu",
            "rope_parameters": YARN | {"rope_theta": 500.0},
        },
    ),
    "llama-yarn-exact": (
        "llama",
        SMALL | {"rope_parameters": YARN | {"rope_theta": 500.0, "truncate": False, "attention_factor": 1.3}},
    ),
    "llama-linear-relu2": (
        "llama",
        SMALL | {"hidden_act": "relu2", "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 90.0}},
    ),
    "gpt2": ("gpt2", GPT2),
    "gpt2-untied": (
        "gpt2",
        GPT2 | {"tie_word_embeddings": False, "activation_function": "relu", "scale_attn_by_inverse_layer_idx": True},
    ),
    "qwen2": ("qwen2", SMALL | {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}}),
    "qwen2-window-tied": ("qwen2", SMALL | TIED | WINDOW),
    "qwen3": ("qwen3", SMALL),
    "qwen3-window-tied": ("qwen3", SMALL | TIED | WINDOW | {"attention_bias": True}),
    "mistral": ("mistral", SMALL | {"sliding_window": None}),
    "mistral-window-tied": ("mistral", SMALL | TIED | {"sliding_window": 5}),
    "gemma": ("gemma", SMALL | TIED | {"num_key_value_heads": 1}),
    "gemma-untied": ("gemma", SMALL | {"attention_bias": True}),
    "gemma2": ("gemma2", SMALL | TIED | CAPS | {"sliding_window": 5, "query_pre_attn_scalar": 11}),
    "gemma2-untied": (
        "gemma2",
        SMALL | {"sliding_window": 5, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma3": (
        "gemma3_text",
        SMALL | TIED | {"num_hidden_layers": 6, "sliding_window": 5, "rope_parameters": GEMMA3_ROPE},
    ),
    "gemma3-untied": (
        "gemma3_text",
        SMALL
        | {"sliding_window": 3, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 11}
        | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    ),
    "gemma3-images": (
        "gemma3",
        {
            "text_config": SMALL
            | TIED
            | {"num_hidden_layers": 2, "sliding_window": 3, "rope_parameters": GEMMA3_ROPE}
            | {"layer_types": ["sliding_attention", "full_attention"]},
            "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 10}
            | {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 2}
            | {"vision_use_head": False},
            "mm_tokens_per_image": 4,
            "image_token_index": 7,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2.5-vl": (
        "qwen2_5_vl",
        {
            "text_config": {key: value for key, value in SMALL.items() if key != "head_dim"}
            | {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "rms_norm_eps": 0.003}
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]}},
            "vision_config": {"depth": 8, "hidden_size": 8, "intermediate_size": 10, "num_heads": 2, "patch_size": 2}
            | {"window_size": 16, "fullatt_block_indexes": [1, 3, 5, 7], "out_hidden_size": 32}
            | {"tokens_per_second": 2},
            "image_token_id": 7,
            "image_size": 8,
            "tie_word_embeddings": False,
        },
    ),
    "olmo2": ("olmo2", SMALL),
    "olmo2-tied": ("olmo2", SMALL | TIED | {"attention_bias": True}),
    "olmo3": ("olmo3", SMALL | {"num_hidden_layers": 6, "sliding_window": 5, "rope_parameters": OLMO3_ROPE}),
    "olmo3-tied": ("olmo3", SMALL | TIED | {"num_hidden_layers": 4, "sliding_window": 5}),
    "mixtral": ("mixtral", SMALL | LOCAL),
    "mixtral-window-tied": ("mixtral", SMALL | TIED | LOCAL | {"num_local_experts": 3, "sliding_window": 5}),
    "qwen3-moe": ("qwen3_moe", SMALL | QWEN_EXPERTS | {"norm_topk_prob": False}),
    "qwen3-moe-mixed-tied": (
        "qwen3_moe",
        SMALL
        | TIED
        | QWEN_EXPERTS
        | {
            "num_hidden_layers": 6,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "norm_topk_prob": True,
            "attention_bias": True,
        }
        | {"use_sliding_window": True, "sliding_window": 5},
    ),
    "gpt-oss": (
        "gpt_oss",
        SMALL
        | LOCAL
        | {
            "sliding_window": 5,
            "rope_parameters": YARN | {"rope_theta": 150.0, "truncate": False},
            "swiglu_limit": 0.4,
        },
    ),
    "gpt-oss-tied": (
        "gpt_oss",
        SMALL
        | TIED
        | LOCAL
        | {
            "sliding_window": 3,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "attention_bias": False,
        }
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 150.0}},
    ),
    "deepseek-v3": (
        "deepseek_v3",
        LATENT
        | {"n_group": 4, "topk_group": 2, "q_lora_rank": 7, "routed_scaling_factor": 2.5}
        | {"rope_parameters": YARN | {"rope_theta": 500.0, "mscale": 1.0, "mscale_all_dim": 0.7}},
    ),
    "deepseek-v3-tied": (
        "deepseek_v3",
        LATENT
        | TIED
        | {"n_group": 1, "topk_group": 1, "q_lora_rank": None, "rope_interleave": False, "norm_topk_prob": False}
        | {"first_k_dense_replace": 0, "n_shared_experts": 2},
    ),
    "glm4-moe": (
        "glm4_moe",
        SMALL
        | ROUTED
        | {"head_dim": 8, "use_qk_norm": True, "attention_bias": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 90.0, "partial_rotary_factor": 0.5}},
    ),
    "glm4-moe-tied": (
        "glm4_moe",
        SMALL
        | TIED
        | ROUTED
        | {"head_dim": 8, "first_k_dense_replace": 2, "n_group": 2, "topk_group": 1}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 90.0, "partial_rotary_factor": 0.75}},
    ),
    "apertus": ("apertus", SMALL | {"attention_bias": True, "rope_parameters": LLAMA3 | {"rope_theta": 90.0}}),
    "apertus-tied": (
        "apertus",
        SMALL | TIED | {"hidden_act": "relu2", "rope_parameters": {"rope_type": "default", "rope_theta": 90.0}},
    ),
    "qwen3-next": (
        "qwen3_next",
        SMALL
        | DELTA
        | SHARED
        | {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [1], "norm_topk_prob": False},
    ),
    "qwen3-next-tied": ("qwen3_next", SMALL | DELTA | SHARED | TIED | {"attention_bias": True, "num_hidden_layers": 4}),
    "qwen3.5": ("qwen3_5_text", SMALL | DELTA | {"num_hidden_layers": 5}),
    "qwen3.5-tied": (
        "qwen3_5_text",
        SMALL
        | DELTA
        | TIED
        | {"linear_num_value_heads": 2, "layer_types": ["full_attention", "linear_attention", "full_attention"]},
    ),
    "whisper": (
        "whisper",
        {"vocab_size": VOCABULARY, "d_model": 16, "max_target_positions": LENGTH, "max_source_positions": 21}
        | {"encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 20, "num_mel_bins": 5}
        | {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 12, **NO_TOKENS},
    ),
    "modernbert": ("modernbert", BERT | {"local_attention": 6}),
    "modernbert-untied": (
        "modernbert",
        BERT | {"tie_word_embeddings": False, "local_attention": 5, "num_hidden_layers": 1},
    ),
    "qwen3.5-moe": ("qwen3_5_moe_text", SMALL | DELTA | SHARED | {"num_hidden_layers": 4}),
}

FREQUENCIES: dict[str, tuple[int, dict[str, Any]]] = {
    "llama-3.1": (128, LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_theta": 500_000.0}),
    "gemma-3": (256, {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}),
    "olmo-3": (
        128,
        {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "attention_factor": 1.2079441541679836,
        }
        | {"beta_fast": 32.0, "beta_slow": 1.0, "rope_theta": 500_000.0},
    ),
    "gpt-oss": (
        64,
        {
            "rope_type": "yarn",
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "truncate": False,
            "rope_theta": 150_000.0,
        }
        | {"beta_fast": 32.0, "beta_slow": 1.0},
    ),
    "deepseek": (
        64,
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "mscale": 1.0,
            "mscale_all_dim": 0.7,
        }
        | {"rope_theta": 10_000.0},
    ),
}
"""Head size and rotary positions of published models, some with other scales."""
