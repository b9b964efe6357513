"""OLMo 2 and 3 in the form of Hugging Face (``Olmo2ForCausalLM``, ``Olmo3ForCausalLM``)."""

from __future__ import annotations

from typing import Any

from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import (
    AFTER,
    decoder_tensors,
    read_activation,
    read_decoder,
    read_layer_types,
    read_window,
    write_decoder,
)
from halcyon.models.weights.family import Family
from halcyon.models.weights.rope import Rope, read_windowed_theta
from halcyon.models.weights.tensors import Tensors
from halcyon_api.spec.families.olmo import Olmo2Spec, Olmo3Spec

_THETA = 500_000.0
"""The base of the class in transformers."""


def _tensors(spec: Olmo2Spec | Olmo3Spec) -> Tensors:
    return decoder_tensors(spec.sizes(), AFTER)


def _common(config: ConfigReader, theta: float, *, by_layer: bool = False) -> dict[str, Any]:
    bias, activation = config.flag("attention_bias", False), read_activation(config, "hidden_act", "silu")
    return {**read_decoder(config, theta=theta, epsilon=1e-5, by_layer=by_layer), "attention_bias": bias, "hidden_act": activation}


def _read_olmo2(config: ConfigReader) -> Olmo2Spec:
    return Olmo2Spec(**_common(config, 10_000.0))


def _read_olmo3(config: ConfigReader) -> Olmo3Spec:
    common = _common(config, _THETA, by_layer=True)
    # Version 5 of transformers takes a base of the former form for full layers only. Its files have none.
    default = _THETA if config.has("rope_parameters") else common["rope_theta"]
    windowed = read_windowed_theta(config, None, default)
    local = None if windowed == common["rope_theta"] else windowed
    return Olmo3Spec(**common, rope_local_base_freq=local, sliding_window=read_window(config, 4096), layer_types=read_layer_types(config))


def _write(spec: Olmo2Spec | Olmo3Spec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    entries = {"hidden_act": spec.hidden_act, "attention_bias": spec.attention_bias}
    if isinstance(spec, Olmo2Spec):
        return {**write_decoder(spec, positions), **entries}
    patterned = {"sliding_window": spec.window, "layer_types": list(spec.layers_by_type)}
    return {**write_decoder(spec, positions, windowed=Rope(spec.rope_local_base_freq or spec.rope_theta)), **entries, **patterned}


OLMO2 = Family(Olmo2Spec, "olmo2", ("Olmo2ForCausalLM",), _tensors, _read_olmo2, _write)
OLMO3 = Family(Olmo3Spec, "olmo3", ("Olmo3ForCausalLM",), _tensors, _read_olmo3, _write)
