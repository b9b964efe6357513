"""Mistral (Jiang et al. 2023): a Llama whose attention may see only a window. Mixtral (Jiang et al. 2024): with experts
in every layer; the weights of a token's experts add up to 1.
"""

import functools

from halcyon.models.design import Design
from halcyon.models.families.family import decoder_family, design_of, mixture_of
from halcyon.models.published import DecoderConfig, PublishedModel, decoder_tensors
from halcyon_api.spec.families.mistral import MistralSpec, MixtralSpec

_NAMES = {"gate": "w1", "up": "w3", "down": "w2"}


def expert_design(spec: MixtralSpec) -> Design:
    """What the decoder of Mixtral is made of."""
    return design_of(spec, mixture=mixture_of(spec))


_TENSORS = functools.partial(
    decoder_tensors,
    mixture=lambda layers: layers.experts("block_sparse_moe", _NAMES),
)


_MISTRAL = DecoderConfig(MistralSpec, {"num_key_value_heads": 8, "hidden_act": "silu", "sliding_window": 4096})
_MIXTRAL = DecoderConfig(
    MixtralSpec,
    {
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "hidden_act": "silu",
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.001,
    },
    constants={"router_jitter_noise": 0.0, "output_router_logits": False},
)
MISTRAL = decoder_family(
    MistralSpec,
    design_of,
    PublishedModel("mistral", ("MistralForCausalLM",), decoder_tensors, _MISTRAL.read, _MISTRAL.write),
)
MIXTRAL = decoder_family(
    MixtralSpec,
    expert_design,
    PublishedModel("mixtral", ("MixtralForCausalLM",), _TENSORS, _MIXTRAL.read, _MIXTRAL.write),
)
