"""Llama (Touvron et al. 2023): RMSNorm before each part, rotary positions, grouped-query attention, SwiGLU."""

from __future__ import annotations

from halcyon.models.design import BlockKind, Design
from halcyon.models.families.family import decoder_family
from halcyon.models.parts.rotary import Rope
from halcyon.models.published import DecoderConfig, PublishedForm, decoder_tensors
from halcyon_api.spec.families.llama import LlamaSpec


def design(spec: LlamaSpec) -> Design:
    """What the decoder is made of. Its norms round once, unlike those of Hugging Face."""
    return Design(
        sizes=spec.sizes(),
        kinds=(BlockKind(Rope(spec.rope_theta, spec.rope_scaling)),) * spec.layers,
        epsilon=spec.norm_epsilon,
        std=spec.initializer_std,
        scaling="wide",
        activation=spec.hidden_act,
    )


_CONFIG = DecoderConfig(
    LlamaSpec,
    {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    names={
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "num_key_value_heads": "kv_heads",
        "rms_norm_eps": "norm_epsilon",
        "initializer_range": "initializer_std",
        "tie_word_embeddings": "tie_embeddings",
    },
)
LLAMA = decoder_family(
    LlamaSpec, design, PublishedForm("llama", ("LlamaForCausalLM",), decoder_tensors, _CONFIG.read, _CONFIG.write)
)
