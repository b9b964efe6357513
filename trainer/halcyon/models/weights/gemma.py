"""Gemma 1, 2 and 3 in the form of Hugging Face. The text model is read from the files of a Gemma 3 with images, too."""

from __future__ import annotations

from typing import Any

from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import (
    AROUND,
    BEFORE,
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
from halcyon_api.spec.families.decoder import PatternedSection
from halcyon_api.spec.families.gemma import Gemma2Spec, Gemma3Spec, GemmaSpec

_IMAGES = (r"(model\.)?vision_tower\..*", r"(model\.)?multi_modal_projector\..*")
_TEXT = ((r"language_model\.model\.", "model."), (r"model\.language_model\.", "model."), (r"language_model\.lm_head\.", "lm_head."))
_TANH = "gelu_pytorch_tanh"


def _tensors(spec: GemmaSpec) -> Tensors:
    return decoder_tensors(spec.sizes(), BEFORE)


def _tensors_around(spec: PatternedSection) -> Tensors:
    return decoder_tensors(spec.sizes(), AROUND, ignored=_IMAGES, other_names=_TEXT)


def _common(config: ConfigReader, key_value_heads: int, *, theta: float = 10_000.0, by_layer: bool = False) -> dict[str, Any]:
    config.only("use_bidirectional_attention", False)
    common = read_decoder(config, theta=theta, tied=True, key_value_heads=key_value_heads, by_layer=by_layer)
    head_dim = common["head_dim"] or 256  # the default of the class in transformers
    return common | {"head_dim": head_dim, "attention_bias": config.flag("attention_bias", False)}


def _patterned(config: ConfigReader, pattern: int) -> dict[str, Any]:
    """The fields of layers that alternate. Older files may have the length of the pattern in place of ``layer_types``."""
    types, length = read_layer_types(config), config.integer("sliding_window_pattern", pattern)
    if types is None and length != pattern:
        layers = range(1, config.integer("num_hidden_layers") + 1)
        types = ["full_attention" if number % length == 0 else "sliding_attention" for number in layers]
    return {
        "hidden_activation": read_activation(config, "hidden_activation", _TANH),
        "sliding_window": read_window(config, 4096),
        "layer_types": types,
        "query_pre_attn_scalar": config.number("query_pre_attn_scalar", 256.0),
    }


def _cap(config: ConfigReader, name: str, default: float) -> float:
    """A soft cap; 0 if it is null. `default` is its value if the key is absent."""
    return config.number(name, 0.0 if name in config.document else default)


def _read(config: ConfigReader) -> GemmaSpec:
    # The published files say "gelu", and the models were trained with its tanh form.
    key = "hidden_act" if config.has("hidden_act") else "hidden_activation"
    found = read_activation(config, key, _TANH)
    return GemmaSpec(**_common(config, 16), hidden_act=_TANH if found == "gelu" else found)


def _read_gemma2(config: ConfigReader) -> Gemma2Spec:
    return Gemma2Spec(
        **_common(config, 4),
        **_patterned(config, 2),
        attn_logit_softcapping=_cap(config, "attn_logit_softcapping", 50.0),
        final_logit_softcapping=_cap(config, "final_logit_softcapping", 30.0),
    )


def _read_gemma3(config: ConfigReader) -> Gemma3Spec:
    return Gemma3Spec(
        **_common(config, 4, theta=1_000_000.0, by_layer=True),
        **_patterned(config, 6),
        rope_local_base_freq=read_windowed_theta(config, "rope_local_base_freq", 10_000.0),
        final_logit_softcapping=_cap(config, "final_logit_softcapping", 0.0),
    )


def _write(spec: GemmaSpec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    entries = {"hidden_act": spec.hidden_act, "hidden_activation": spec.hidden_act, "attention_bias": spec.attention_bias}
    return {**write_decoder(spec, positions), **entries}


def _write_patterned(spec: Gemma2Spec | Gemma3Spec) -> dict[str, Any]:
    scalar = spec.query_pre_attn_scalar or spec.head_size
    return {
        "hidden_activation": spec.hidden_activation,
        "attention_bias": spec.attention_bias,
        "sliding_window": spec.window,
        "layer_types": list(spec.layers_by_type),
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
        "final_logit_softcapping": spec.final_logit_softcapping or None,
    }


def _write_gemma2(spec: Gemma2Spec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    caps = {"attn_logit_softcapping": spec.attn_logit_softcapping or None}
    return {**write_decoder(spec, positions), **_write_patterned(spec), **caps}


def _write_gemma3(spec: Gemma3Spec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    entries = write_decoder(spec, positions, windowed=Rope(spec.rope_local_base_freq))
    return {**entries, **_write_patterned(spec), "rope_local_base_freq": spec.rope_local_base_freq, "attn_logit_softcapping": None}


GEMMA = Family(GemmaSpec, "gemma", ("GemmaForCausalLM",), _tensors, _read, _write)
GEMMA2 = Family(Gemma2Spec, "gemma2", ("Gemma2ForCausalLM",), _tensors_around, _read_gemma2, _write_gemma2)
GEMMA3 = Family(
    Gemma3Spec,
    "gemma3_text",
    ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    _tensors_around,
    _read_gemma3,
    _write_gemma3,
    defaults={"num_attention_heads": 8, "vocab_size": 262_208, "max_position_embeddings": 131_072},
)
