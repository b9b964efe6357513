"""Qwen 2, 2.5 and 3 in the form of Hugging Face (``Qwen2ForCausalLM``, ``Qwen3ForCausalLM``)."""

from __future__ import annotations

from typing import Any

from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import (
    BEFORE,
    decoder_tensors,
    read_activation,
    read_decoder,
    read_layer_types,
    read_window,
    write_decoder,
)
from halcyon.models.weights.family import Family
from halcyon.models.weights.tensors import Tensors
from halcyon_api.spec.families.qwen import Qwen2Spec, Qwen3Spec, QwenSection


def _tensors(spec: QwenSection) -> Tensors:
    return decoder_tensors(spec.sizes(), BEFORE)


def _common(config: ConfigReader) -> dict[str, Any]:
    window = read_window(config, 4096)
    return {
        **read_decoder(config, key_value_heads=32),
        "hidden_act": read_activation(config, "hidden_act", "silu"),
        "use_sliding_window": config.flag("use_sliding_window", False) and window is not None,
        "sliding_window": window,
        "max_window_layers": config.integer("max_window_layers", 28),
        "layer_types": read_layer_types(config),
    }


def _read_qwen2(config: ConfigReader) -> Qwen2Spec:
    return Qwen2Spec(**_common(config))


def _read_qwen3(config: ConfigReader) -> Qwen3Spec:
    common = _common(config)
    common["head_dim"] = common["head_dim"] or 128  # the default of the class in transformers
    return Qwen3Spec(**common, attention_bias=config.flag("attention_bias", False))


def _write(spec: QwenSection, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    return {
        **write_decoder(spec, positions),
        "hidden_act": spec.hidden_act,
        "use_sliding_window": spec.use_sliding_window,
        "sliding_window": spec.window,
        "max_window_layers": spec.max_window_layers,
        "layer_types": list(spec.layers_by_type),
        **({"attention_bias": spec.attention_bias} if isinstance(spec, Qwen3Spec) else {}),
    }


QWEN2 = Family(Qwen2Spec, "qwen2", ("Qwen2ForCausalLM",), _tensors, _read_qwen2, _write)
QWEN3 = Family(Qwen3Spec, "qwen3", ("Qwen3ForCausalLM",), _tensors, _read_qwen3, _write)
