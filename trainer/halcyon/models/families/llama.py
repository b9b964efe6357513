"""Llama (Touvron et al. 2023): RMSNorm before each part, rotary positions, grouped-query attention, SwiGLU."""

from halcyon.models.design import Design
from halcyon.models.families.family import decoder_family, design_of
from halcyon.models.published import DecoderConfig, PublishedModel, decoder_tensors
from halcyon_api.spec.families.llama import LlamaSpec


def design(spec: LlamaSpec) -> Design:
    """What the decoder is made of. Its norms round once, unlike those of Hugging Face."""
    return design_of(spec, scaling="wide", placement="both" if spec.hybrid_norm else "before")


def _is_published(spec: LlamaSpec) -> bool:
    return not spec.hybrid_norm and not spec.input_embedding_norm


_CONFIG = DecoderConfig(LlamaSpec, {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False})
LLAMA = decoder_family(
    LlamaSpec,
    design,
    PublishedModel("llama", ("LlamaForCausalLM",), decoder_tensors, _CONFIG.read, _CONFIG.write, covers=_is_published),
)
