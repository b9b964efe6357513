"""Random configurations of every family, with the entries of config.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.parity.rows import LENGTH, NO_TOKENS

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "relu2", "swish")


class Draw:
    """Random choices of one configuration."""

    def __init__(self, seed: int) -> None:
        self.noise = np.random.default_rng(seed)

    def one(self, *choices: Any) -> Any:
        """One of the choices."""
        return choices[self.noise.integers(len(choices))]

    def flag(self, probability: float = 0.5) -> bool:
        """True with this probability."""
        return bool(self.noise.random() < probability)

    def some(self, **settings: Any) -> dict[str, Any]:
        """Each of the settings with probability one half."""
        return {name: value for name, value in settings.items() if self.flag()}

    def common(self, *, most_layers: int = 5, head_dim: bool = True) -> dict[str, Any]:
        """Sizes and options that most families have."""
        heads = self.one(1, 2, 3, 4, 6)
        kv_heads = self.one(*(number for number in range(1, heads + 1) if heads % number == 0))
        settings = {
            "vocab_size": self.one(17, 29, 40),
            "hidden_size": heads * self.one(8, 10),  # a norm of few features amplifies rounding
            "intermediate_size": self.one(5, 12, 21),
            "num_hidden_layers": int(self.noise.integers(1, most_layers + 1)),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": self.one(32, 64, 4096),
            "rms_norm_eps": self.one(1e-5, 0.003, 0.1),
            "initializer_range": self.one(0.02, 0.1),
            "attention_dropout": 0.0,
            "tie_word_embeddings": self.flag(),
            **NO_TOKENS,
        }
        return settings | ({"head_dim": self.one(2, 4, 6, 10, 12)} if head_dim else {})

    def theta(self) -> float:
        """A base of rotary frequencies."""
        return self.one(50.0, 1000.0, 10_000.0, 500_000.0)

    def window(self) -> int:
        """A sliding window; some are longer than the sequence."""
        return self.one(1, 2, 5, 8, 13, 14, 40)

    def rope(self, *, factor: bool = True, theta: float | None = None) -> dict[str, Any]:
        """Rotary positions of any kind."""
        kind = self.one("default", "linear", "llama3", "yarn", "yarn")
        found: dict[str, Any] = {"rope_type": kind, "rope_theta": theta or self.theta()}
        if kind == "default":
            return found
        found["factor"] = self.one(1.0, 2.0, 4.0, 32.0)
        if kind == "llama3":
            found |= {"low_freq_factor": self.one(0.5, 1.0), "high_freq_factor": self.one(2.0, 4.0)}
        if kind == "yarn":
            found |= self.some(beta_fast=self.one(2.0, 32), beta_slow=self.one(0.5, 1), truncate=self.flag())
            found |= self.some(attention_factor=self.one(0.7, 1.3)) if self.flag() else {}
            found |= self.some(mscale=self.one(0.7, 1.0), mscale_all_dim=self.one(0.4, 1.0))
            if factor and self.flag(0.2):
                found["factor"] = None
        if kind in ("llama3", "yarn"):
            found |= {"original_max_position_embeddings": self.one(8, 16, 32)} if self.flag(0.8) else {}
        return found

    def layer_types(self, layers: int, *kinds: str) -> dict[str, Any]:
        """The kind of each layer, or nothing: then the family's pattern."""
        return {"layer_types": [self.one(*kinds) for _ in range(layers)]} if self.flag() else {}

    def routed(self, experts: str) -> dict[str, Any]:
        """The number of experts, and those of a token."""
        number = self.one(2, 4, 8)
        return {experts: number, "num_experts_per_tok": int(self.noise.integers(1, number + 1))}

    def corrected(self) -> dict[str, Any]:
        """Routers and experts of DeepSeek V3."""
        groups, each = self.one(1, 1, 2, 4), self.one(2, 3)
        kept = int(self.noise.integers(1, groups + 1))
        return {
            "n_routed_experts": groups * each,
            "n_group": groups,
            "topk_group": kept,
            "num_experts_per_tok": int(self.noise.integers(1, kept * each + 1)),
            "n_shared_experts": self.one(1, 2),
            "moe_intermediate_size": self.one(3, 6),
            "first_k_dense_replace": self.one(0, 1, 2),
            "norm_topk_prob": self.flag(),
            "routed_scaling_factor": self.one(1.0, 2.5),
        }


def llama(draw: Draw) -> dict[str, Any]:
    settings = draw.common(head_dim=draw.flag()) | {"attention_bias": draw.flag(), "mlp_bias": draw.flag()}
    return settings | {"hidden_act": draw.one(*ACTIVATIONS), "rope_parameters": draw.rope()}


def gpt2(draw: Draw) -> dict[str, Any]:
    heads = draw.one(1, 2, 3)
    return {
        "vocab_size": draw.one(17, 29),
        "n_embd": heads * draw.one(3, 4, 5),
        "n_inner": draw.one(None, 7),
        "n_layer": draw.one(1, 2, 4),
        "n_head": heads,
        "n_positions": LENGTH,
        "layer_norm_epsilon": draw.one(1e-5, 0.01),
        "activation_function": draw.one(*ACTIVATIONS),
        "scale_attn_weights": draw.flag(),
        "scale_attn_by_inverse_layer_idx": draw.flag(),
        "reorder_and_upcast_attn": draw.flag(),
        "tie_word_embeddings": draw.flag(),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **NO_TOKENS,
    }


def mistral(draw: Draw) -> dict[str, Any]:
    settings = draw.common(head_dim=draw.flag()) | {"sliding_window": draw.one(None, draw.window())}
    return settings | {"hidden_act": draw.one(*ACTIVATIONS), "rope_parameters": draw.rope()}


def mixtral(draw: Draw) -> dict[str, Any]:
    settings = mistral(draw)
    if settings["rope_parameters"]["rope_type"] in (
        "llama3",
        "yarn",
    ):  # transformers 5 fails at these without the size of a head
        settings.setdefault("head_dim", settings["hidden_size"] // settings["num_attention_heads"])
    return settings | draw.routed("num_local_experts")


def gemma(draw: Draw) -> dict[str, Any]:
    settings = draw.common() | {"attention_bias": draw.flag(), "hidden_act": draw.one(*ACTIVATIONS)}
    return settings | {"rope_parameters": draw.rope()}


def patterned_gemma(draw: Draw) -> dict[str, Any]:
    settings = draw.common(most_layers=8)
    settings |= {
        "attention_bias": draw.flag(),
        "hidden_activation": draw.one(*ACTIVATIONS),
        "sliding_window": draw.window(),
    }
    settings |= {"query_pre_attn_scalar": draw.one(3, 16), "final_logit_softcapping": draw.one(None, 2.0, 30.0)}
    return settings | draw.layer_types(settings["num_hidden_layers"], "sliding_attention", "full_attention")


def gemma2(draw: Draw) -> dict[str, Any]:
    return patterned_gemma(draw) | {"attn_logit_softcapping": draw.one(None, 0.5, 50.0), "rope_parameters": draw.rope()}


def gemma3(draw: Draw) -> dict[str, Any]:
    ropes = {"full_attention": draw.rope(), "sliding_attention": {"rope_type": "default", "rope_theta": draw.theta()}}
    return patterned_gemma(draw) | {"rope_parameters": ropes}


def qwen(draw: Draw) -> dict[str, Any]:
    settings = draw.common() | {"hidden_act": draw.one(*ACTIVATIONS), "rope_parameters": draw.rope()}
    if draw.flag():
        settings |= {
            "use_sliding_window": True,
            "sliding_window": draw.window(),
            "max_window_layers": draw.one(1, 2, 28),
        }
        settings |= draw.layer_types(settings["num_hidden_layers"], "sliding_attention", "full_attention")
    return settings


def qwen3(draw: Draw) -> dict[str, Any]:
    return qwen(draw) | {"attention_bias": draw.flag()}


def qwen3_moe(draw: Draw) -> dict[str, Any]:
    settings = draw.common(head_dim=draw.flag()) | draw.routed("num_experts")
    settings |= {"hidden_act": draw.one(*ACTIVATIONS), "rope_parameters": draw.rope(), "attention_bias": draw.flag()}
    settings |= {
        "moe_intermediate_size": draw.one(3, 6),
        "norm_topk_prob": draw.flag(),
        "decoder_sparse_step": draw.one(1, 1, 2, 3),
    }
    settings |= {"mlp_only_layers": draw.one([], [0], [1, 3])}
    return settings | ({"use_sliding_window": True, "sliding_window": draw.window()} if draw.flag() else {})


def olmo2(draw: Draw) -> dict[str, Any]:
    settings = draw.common(head_dim=False) | {"attention_bias": draw.flag(), "hidden_act": draw.one(*ACTIVATIONS)}
    return settings | {"rope_parameters": draw.rope()}


def olmo3(draw: Draw) -> dict[str, Any]:
    settings, full = olmo2(draw), draw.rope()
    ropes = {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": draw.theta()}}
    settings |= {"sliding_window": draw.window(), "rope_parameters": ropes}
    return settings | draw.layer_types(settings["num_hidden_layers"], "sliding_attention", "full_attention")


def gpt_oss(draw: Draw) -> dict[str, Any]:
    settings = (
        draw.common()
        | draw.routed("num_local_experts")
        | {"attention_bias": draw.flag(), "sliding_window": draw.window()}
    )
    settings |= {"swiglu_limit": draw.one(0.3, 7.0), "swiglu_alpha": draw.one(1.0, 1.702)}
    settings |= {"rope_parameters": draw.rope()} if draw.flag(0.8) else {}
    return settings | draw.layer_types(settings["num_hidden_layers"], "sliding_attention", "full_attention")


def deepseek_v3(draw: Draw) -> dict[str, Any]:
    settings = draw.common(head_dim=False) | draw.corrected()
    settings |= {"num_key_value_heads": settings["num_attention_heads"], "attention_bias": draw.flag(0.3)}
    settings |= {"q_lora_rank": draw.one(None, 5), "kv_lora_rank": draw.one(3, 8), "v_head_dim": draw.one(3, 6)}
    settings |= {
        "qk_nope_head_dim": draw.one(3, 8),
        "qk_rope_head_dim": draw.one(2, 6),
        "rope_interleave": draw.flag(0.7),
    }
    return settings | {
        "hidden_act": draw.one(*ACTIVATIONS),
        "rope_parameters": draw.rope(factor=False),
        "num_mtp_layers": 0,
    }


def glm4_moe(draw: Draw) -> dict[str, Any]:
    settings = draw.common() | draw.corrected() | {"head_dim": draw.one(4, 8, 12), "num_mtp_layers": 0}
    rope = draw.rope() | {"partial_rotary_factor": draw.one(0.5, 1.0)}
    return settings | {
        "hidden_act": draw.one(*ACTIVATIONS),
        "attention_bias": draw.flag(),
        "use_qk_norm": draw.flag(),
        "rope_parameters": rope,
    }


def apertus(draw: Draw) -> dict[str, Any]:
    settings = draw.common(head_dim=draw.flag()) | {"attention_bias": draw.flag()}
    settings |= {"hidden_act": draw.one("xielu", "xielu", *ACTIVATIONS)}
    return settings | ({"rope_parameters": draw.rope()} if draw.flag(0.8) else {})


def modernbert(draw: Draw) -> dict[str, Any]:
    settings = draw.common(most_layers=8, head_dim=False)
    for name in ("num_key_value_heads", "rms_norm_eps"):
        del settings[name]
    ropes = {name: {"rope_type": "default", "rope_theta": draw.theta()} for name in ("full_attention", WINDOWED)}
    return settings | {
        "local_attention": 2 * draw.window() + draw.one(0, 1),
        "rope_parameters": ropes,
    }


def qwen35(draw: Draw) -> dict[str, Any]:
    settings = draw.common(most_layers=6) | {"head_dim": draw.one(4, 8, 12), "attention_bias": draw.flag()}
    settings["rms_norm_eps"] = draw.one(
        0.003, 0.1
    )  # outputs of states are small, and a norm without it amplifies their rounding
    key_heads = draw.one(1, 2, 3)
    settings |= {"linear_num_key_heads": key_heads, "linear_num_value_heads": key_heads * draw.one(1, 2, 3)}
    settings |= {
        "linear_key_head_dim": draw.one(6, 8),
        "linear_value_head_dim": draw.one(3, 5),
        "linear_conv_kernel_dim": draw.one(1, 2, 4),
    }
    settings |= {
        "hidden_act": draw.one(*ACTIVATIONS),
        "rope_parameters": draw.rope() | {"partial_rotary_factor": draw.one(0.5, 1.0)},
    }
    return settings | draw.layer_types(settings["num_hidden_layers"], "linear_attention", "full_attention")


def qwen35_moe(draw: Draw) -> dict[str, Any]:
    settings = qwen35(draw) | draw.routed("num_experts")
    return settings | {"moe_intermediate_size": draw.one(3, 6), "shared_expert_intermediate_size": draw.one(4, 7)}


def qwen3_next(draw: Draw) -> dict[str, Any]:
    settings = qwen35_moe(draw) | {"norm_topk_prob": draw.flag(), "decoder_sparse_step": draw.one(1, 1, 2)}
    return settings | {"mlp_only_layers": draw.one([], [0], [1, 3])}


FAMILIES: dict[str, tuple[str, Callable[[Draw], dict[str, Any]]]] = {
    "llama": ("llama", llama),
    "gpt2": ("gpt2", gpt2),
    "mistral": ("mistral", mistral),
    "mixtral": ("mixtral", mixtral),
    "gemma": ("gemma", gemma),
    "gemma2": ("gemma2", gemma2),
    "gemma3": ("gemma3_text", gemma3),
    "qwen2": ("qwen2", qwen),
    "qwen3": ("qwen3", qwen3),
    "qwen3-moe": ("qwen3_moe", qwen3_moe),
    "olmo2": ("olmo2", olmo2),
    "olmo3": ("olmo3", olmo3),
    "gpt-oss": ("gpt_oss", gpt_oss),
    "deepseek-v3": ("deepseek_v3", deepseek_v3),
    "glm4-moe": ("glm4_moe", glm4_moe),
    "apertus": ("apertus", apertus),
    "modernbert": ("modernbert", modernbert),
    "qwen3-next": ("qwen3_next", qwen3_next),
    "qwen35": ("qwen3_5_text", qwen35),
    "qwen35-moe": ("qwen3_5_moe_text", qwen35_moe),
}
NESTED = ("gemma3",)
WINDOWED = "sliding_attention"


def former(family: str, config: dict[str, Any]) -> dict[str, Any]:
    """A config.json with the keys of transformers 4 for rotary positions."""
    rope = config.pop("rope_parameters", None)
    if rope is None:
        return config
    if family == "modernbert":
        bases = {"global_rope_theta": rope["full_attention"], "local_rope_theta": rope[WINDOWED]}
        return config | {key: kind["rope_theta"] for key, kind in bases.items()}
    if family in NESTED:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    fraction = rope.pop("partial_rotary_factor", None)
    if fraction is not None:
        config["partial_rotary_factor"] = fraction
    kind = rope.pop("rope_type")
    key = (
        "type" if kind == "linear" and family not in NESTED else "rope_type"
    )  # which transformers 5 reads in flat settings alone
    config["rope_scaling"] = None if kind == "default" else {key: kind, **rope}
    return config
