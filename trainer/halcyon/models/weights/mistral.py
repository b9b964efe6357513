"""Mistral in the form of Hugging Face (``MistralForCausalLM``)."""

from __future__ import annotations

from typing import Any

from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import BEFORE, decoder_tensors, read_activation, read_decoder, read_window, write_decoder
from halcyon.models.weights.family import Family
from halcyon.models.weights.tensors import Tensors
from halcyon_api.spec.families.mistral import MistralSpec


def _tensors(spec: MistralSpec) -> Tensors:
    return decoder_tensors(spec.sizes(), BEFORE)


def _read(config: ConfigReader) -> MistralSpec:
    return MistralSpec(
        **read_decoder(config, key_value_heads=8),
        hidden_act=read_activation(config, "hidden_act", "silu"),
        sliding_window=read_window(config, 4096),
    )


def _write(spec: MistralSpec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    return {**write_decoder(spec, positions), "hidden_act": spec.hidden_act, "sliding_window": spec.sliding_window}


MISTRAL = Family(MistralSpec, "mistral", ("MistralForCausalLM",), _tensors, _read, _write)
