"""Mixtral (Jiang et al. 2024): a Mistral with experts in every layer; the weights of a token's experts add up to 1."""

from __future__ import annotations

from halcyon.models.decoder import Decoder
from halcyon.models.design import Design
from halcyon.models.families.designs import design_of
from halcyon.models.families.expert_designs import mixture_of
from halcyon.models.families.family import Family
from halcyon.models.published import DecoderConfig, PublishedForm, Tensors, expert_decoder_tensors
from halcyon_api.spec.families.mixtral import MixtralSpec

_NAMES = {"gate": "w1", "up": "w3", "down": "w2"}


def design(spec: MixtralSpec) -> Design:
    """What the decoder is made of."""
    return design_of(spec, spec.hidden_act, mixture=mixture_of(spec, spec.hidden_act))


def tensors(spec: MixtralSpec) -> Tensors:
    """The tensors of ``MixtralForCausalLM``."""
    return expert_decoder_tensors(
        spec, lambda layers: layers.experts("block_sparse_moe.gate", "block_sparse_moe.experts", _NAMES)
    )


_CONFIG = DecoderConfig(
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
MIXTRAL = Family(
    MixtralSpec,
    design,
    Decoder.of,
    (PublishedForm("mixtral", ("MixtralForCausalLM",), tensors, _CONFIG.read, _CONFIG.write),),
)
