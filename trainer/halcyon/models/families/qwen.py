"""Qwen 2 and 2.5 (Yang et al. 2024): biases of queries, keys, values. Qwen 3 (Yang et al. 2025): norms of queries
and keys of a head.
"""

from __future__ import annotations

from typing import Any

from halcyon.models.decoder import Decoder
from halcyon.models.design import Design
from halcyon.models.families.designs import design_of
from halcyon.models.families.family import Family
from halcyon.models.published import ConfigReader, DecoderConfig, PublishedForm, Tensors, decoder_tensors
from halcyon_api.spec.families.qwen import Qwen2Spec, Qwen3Spec, QwenSection


def design(spec: QwenSection) -> Design:
    """What the decoder is made of."""
    return design_of(spec, spec.hidden_act)


def tensors(spec: QwenSection) -> Tensors:
    """The tensors of ``Qwen2ForCausalLM`` and ``Qwen3ForCausalLM``."""
    return decoder_tensors(spec.sizes())


_DEFAULTS = {
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_QWEN2 = DecoderConfig(Qwen2Spec, _DEFAULTS)
_QWEN3 = DecoderConfig(Qwen3Spec, {**_DEFAULTS, "head_dim": 128, "attention_bias": False})


def windowed(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a section of Qwen: without a window, no layer uses one."""
    return fields | {"use_sliding_window": fields["use_sliding_window"] and fields["sliding_window"] is not None}


def _read_qwen2(config: ConfigReader) -> Qwen2Spec:
    return Qwen2Spec(**windowed(_QWEN2.fields(config)))


def _read_qwen3(config: ConfigReader) -> Qwen3Spec:
    return Qwen3Spec(**windowed(_QWEN3.fields(config)))


QWEN2 = Family(
    Qwen2Spec, design, Decoder.of, (PublishedForm("qwen2", ("Qwen2ForCausalLM",), tensors, _read_qwen2, _QWEN2.write),)
)
QWEN3 = Family(
    Qwen3Spec, design, Decoder.of, (PublishedForm("qwen3", ("Qwen3ForCausalLM",), tensors, _read_qwen3, _QWEN3.write),)
)
