"""Writes the goldens: tiny random models of every family, computed by transformers in float32.

Each file NAME.npz has the config.json, the weights by their names in the files of Hugging Face, the shape of each tensor that transformers
saves, by the name that it gives the tensor, two rows of tokens, and what transformers computes of them: logits, and the gradient of the
summed cross entropy with respect to every weight. The first row is one document, longer than every window. The second has two documents
and padding; each document is computed alone, so the golden depends on no mask of segments.

It needs an environment with transformers 5.23 and torch, which the project does not install:

    uv venv goldens && uv pip install --python goldens torch transformers==5.23.0
    goldens/bin/python tests/trainer/models/goldens/make.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open

HERE = Path(__file__).parent
VOCABULARY, LENGTH = 29, 14
DOCUMENTS = ((14,), (6, 5))
"""Lengths of the documents of each row; the rest is padding."""

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
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),  # torch gives the embedding of padding no gradient
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
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
}
TIED = {"tie_word_embeddings": True}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 32, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
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
        SMALL | {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu", "rope_parameters": YARN | {"rope_theta": 500.0}},
    ),
    "llama-yarn-exact": ("llama", SMALL | {"rope_parameters": YARN | {"rope_theta": 500.0, "truncate": False, "attention_factor": 1.3}}),
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
    "gemma2-untied": ("gemma2", SMALL | {"sliding_window": 5, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "gemma3": ("gemma3_text", SMALL | TIED | {"num_hidden_layers": 6, "sliding_window": 5, "rope_parameters": GEMMA3_ROPE}),
    "gemma3-untied": (
        "gemma3_text",
        SMALL
        | {"sliding_window": 3, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 11}
        | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
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
        | {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3], "norm_topk_prob": True, "attention_bias": True}
        | {"use_sliding_window": True, "sliding_window": 5},
    ),
    "gpt-oss": (
        "gpt_oss",
        SMALL | LOCAL | {"sliding_window": 5, "rope_parameters": YARN | {"rope_theta": 150.0, "truncate": False}, "swiglu_limit": 0.4},
    ),
    "gpt-oss-tied": (
        "gpt_oss",
        SMALL
        | TIED
        | LOCAL
        | {"sliding_window": 3, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "attention_bias": False}
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
    "apertus-tied": ("apertus", SMALL | TIED | {"hidden_act": "relu2", "rope_parameters": {"rope_type": "default", "rope_theta": 90.0}}),
    "qwen3-next": (
        "qwen3_next",
        SMALL | DELTA | SHARED | {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [1], "norm_topk_prob": False},
    ),
    "qwen3-next-tied": ("qwen3_next", SMALL | DELTA | SHARED | TIED | {"attention_bias": True, "num_hidden_layers": 4}),
    "qwen3.5": ("qwen3_5_text", SMALL | DELTA | {"num_hidden_layers": 5}),
    "qwen3.5-tied": (
        "qwen3_5_text",
        SMALL | DELTA | TIED | {"linear_num_value_heads": 2, "layer_types": ["full_attention", "linear_attention", "full_attention"]},
    ),
    "qwen3.5-moe": ("qwen3_5_moe_text", SMALL | DELTA | SHARED | {"num_hidden_layers": 4}),
}

CONSTANTS = ("act_fn.beta", "act_fn.eps")
"""Ends of the names of buffers that files have with the value of the model."""


def draw(name: str, shape: tuple[int, ...], noise: np.random.Generator, offset: bool) -> np.ndarray:
    """A random weight whose values a float16 can hold."""
    drawn = noise.standard_normal(shape)
    if "norm" in name or ".ln_" in name:
        drawn = 0.2 * drawn + (0.0 if offset or name.endswith("bias") else 1.0)
    else:
        drawn = drawn * (0.2 if name.endswith("bias") else 0.3)
    return drawn.astype(np.float16)


def in_files(kind: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors by their names in files. In a model, transformers keeps the experts of a layer in one tensor; most files do not."""
    found: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        if kind == "mixtral":
            name = name.replace(".mlp.", ".block_sparse_moe.")
        prefix, _, last = name.rpartition(".experts.")
        if not prefix or kind == "gpt_oss":
            found[name] = value
            continue
        gate, up, down = ("w1", "w3", "w2") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
        for number, matrix in enumerate(value):
            parts = dict(zip((gate, up), np.split(matrix, 2), strict=True)) if last == "gate_up_proj" else {down: matrix}
            found |= {f"{prefix}.experts.{number}.{part}.weight": one for part, one in parts.items()}
    return found


def saved(model: Any) -> dict[str, list[int]]:
    """The shapes of the tensors in the files that transformers writes, by name."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "np") as file:
            return {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}


def golden(kind: str, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    config = transformers.AutoConfig.for_model(kind, **json.loads(json.dumps(settings)))
    config._attn_implementation = config._experts_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float32).eval()
    noise = np.random.default_rng(1)
    constants = {name: value.numpy().astype(np.float16) for name, value in model.named_buffers() if name.endswith(CONSTANTS)}
    corrections = {name: value for name, value in model.named_buffers() if name.endswith("e_score_correction_bias")}
    tensors = dict(model.named_parameters()) | corrections
    weights = {
        name: draw(name, tuple(value.shape), noise, kind.startswith(("gemma", "qwen3_next", "qwen3_5"))) for name, value in tensors.items()
    }
    with torch.no_grad():
        for name, value in tensors.items():
            value.copy_(torch.from_numpy(weights[name].astype(np.float32)))
    tokens, targets = noise.integers(0, VOCABULARY, (2, len(DOCUMENTS), LENGTH))
    segments, logits = np.zeros(tokens.shape, np.int64), np.zeros((*tokens.shape, VOCABULARY), np.float32)
    total = torch.zeros(())
    for row, lengths in enumerate(DOCUMENTS):
        start = 0
        for number, length in enumerate(lengths, 1):
            part = (row, slice(start, start + length))
            found = model(
                input_ids=torch.from_numpy(tokens[part])[None],
                position_ids=torch.arange(start, start + length)[None],
                use_cache=False,
            ).logits[0]
            total = total + torch.nn.functional.cross_entropy(found, torch.from_numpy(targets[part]), reduction="sum")
            segments[part], logits[part] = number, found.detach().numpy()
            start += length
    total.backward()
    gradients = {name: np.zeros(value.shape, np.float32) if value.grad is None else value.grad.numpy() for name, value in tensors.items()}
    document = {"architectures": [type(model).__name__], **config.to_dict()}
    return {
        "config": np.frombuffer(json.dumps(document, default=str).encode(), np.uint8),
        "saved": np.frombuffer(json.dumps(saved(model)).encode(), np.uint8),
        "tokens": tokens.astype(np.int32),
        "targets": targets.astype(np.int32),
        "segments": segments.astype(np.int32),
        "logits": logits,
        "loss": np.float32(total.item()),
        **{f"weight {name}": value for name, value in in_files(kind, weights | constants).items()},
        **{f"gradient {name}": value for name, value in in_files(kind, gradients).items()},
    }


FREQUENCIES: dict[str, tuple[int, dict[str, Any]]] = {
    "llama-3.1": (128, LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_theta": 500_000.0}),
    "gemma-3": (256, {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}),
    "olmo-3": (
        128,
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192, "attention_factor": 1.2079441541679836}
        | {"beta_fast": 32.0, "beta_slow": 1.0, "rope_theta": 500_000.0},
    ),
    "gpt-oss": (
        64,
        {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False, "rope_theta": 150_000.0}
        | {"beta_fast": 32.0, "beta_slow": 1.0},
    ),
    "deepseek": (
        64,
        {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 0.7}
        | {"rope_theta": 10_000.0},
    ),
}
"""Head size and rotary positions of published models, some with other scales."""


def frequencies() -> dict[str, np.ndarray]:
    """The rotary frequencies of `FREQUENCIES`, each with the factor of rotated queries and keys."""
    found: dict[str, np.ndarray] = {}
    for name, (head_size, rope) in FREQUENCIES.items():
        config = transformers.LlamaConfig(
            hidden_size=2 * head_size,
            num_attention_heads=2,
            head_dim=head_size,
            max_position_embeddings=131_072,
            rope_parameters=dict(rope),
        )
        turns, factor = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"))
        settings = {"head_size": head_size, **rope}
        found |= {
            f"settings {name}": np.frombuffer(json.dumps(settings).encode(), np.uint8),
            f"turns {name}": turns.numpy(),
            f"factor {name}": np.float32(factor),
        }
    return found


def norms() -> dict[str, np.ndarray]:
    """Inputs in bfloat16, weights, and the outputs of the norms of several families, as float32."""
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    noise = np.random.default_rng(2)
    x = torch.from_numpy(noise.standard_normal((64, 48))).to(torch.bfloat16)
    weight = torch.from_numpy(0.3 * noise.standard_normal(48)).to(torch.bfloat16)
    found = {"x": x.float().numpy(), "weight": weight.float().numpy()}
    for name, kind in (("rounded", Qwen3RMSNorm), ("wide", Olmo2RMSNorm), ("offset", Gemma2RMSNorm)):
        norm = kind(48, eps=1e-6).to(torch.bfloat16)
        with torch.no_grad():
            norm.weight.copy_(weight)
            found[name] = norm(x).float().numpy()
    return found


def main(names: list[str]) -> None:
    """Write the goldens of the named cases, or of all."""
    if not names:
        np.savez_compressed(HERE / "parts" / "frequencies.npz", **frequencies())
        np.savez_compressed(HERE / "parts" / "norms.npz", **norms())
    for name in names or CASES:
        arrays = golden(*CASES[name])
        np.savez_compressed(HERE / f"{name}.npz", **arrays)
        sys.stdout.write(f"{name}: loss {arrays['loss']:.4f}, transformers {transformers.__version__}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
