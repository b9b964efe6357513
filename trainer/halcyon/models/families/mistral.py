"""Mistral (Jiang et al. 2023): a Llama whose attention may see only a window."""

from __future__ import annotations

from halcyon.models.decoder import Decoder
from halcyon.models.design import Design
from halcyon.models.families.designs import design_of
from halcyon.models.families.family import Family
from halcyon.models.published import DecoderConfig, PublishedForm, Tensors, decoder_tensors
from halcyon_api.spec.families.mistral import MistralSpec


def design(spec: MistralSpec) -> Design:
    """What the decoder is made of."""
    return design_of(spec, spec.hidden_act)


def tensors(spec: MistralSpec) -> Tensors:
    """The tensors of ``MistralForCausalLM``."""
    return decoder_tensors(spec.sizes())


_CONFIG = DecoderConfig(MistralSpec, {"num_key_value_heads": 8, "hidden_act": "silu", "sliding_window": 4096})
MISTRAL = Family(
    MistralSpec,
    design,
    Decoder.of,
    (PublishedForm("mistral", ("MistralForCausalLM",), tensors, _CONFIG.read, _CONFIG.write),),
)
