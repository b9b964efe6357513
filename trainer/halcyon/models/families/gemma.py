"""Gemma 1, 2 and 3 (Gemma Team 2024a, 2024b, 2025): norms with a factor of 1 + weight, scaled embeddings, GeGLU.

Gemma 2 adds norms after each part, soft caps, and a window in every other layer. Gemma 3 has norms of queries and keys
in place of the soft cap of the scores, and its windowed layers have a rotation of their own. From the files of a model
with images, its text model is read alone, or with `vision` the whole model.
"""

import dataclasses
import functools
import math
from typing import Any

from halcyon.models import axes
from halcyon.models.design import Design
from halcyon.models.families.family import decoder_family, design_of
from halcyon.models.parts.rotary import Rope
from halcyon.models.published import ConfigReader, DecoderConfig, PublishedModel, decoder_tensors
from halcyon.models.published.decoder_config import read_activation, read_keys, write_keys
from halcyon.models.published.rope import read_windowed_theta
from halcyon.models.published.tensors import AROUND, BESIDE_IMAGES, Tensors, plain_block, tensor, with_bias
from halcyon.models.vision import EPSILON, SeeingDecoder, VisionTower
from halcyon_api.spec.families.gemma import Gemma2Spec, Gemma3Spec, GemmaSpec
from halcyon_api.spec.families.vision import VisionSpec
from halcyon_api.spec.model_shape import COLOURS

_TANH = "gelu_pytorch_tanh"


def design(spec: GemmaSpec) -> Design:
    """What the decoder of Gemma 1 is made of."""
    return design_of(spec, scaling="offset", embedding_scale=math.sqrt(spec.hidden_size))


def alternating_design(spec: Gemma2Spec | Gemma3Spec) -> Design:
    """What the decoders of Gemma 2 and 3 are made of."""
    scalar = spec.query_pre_attn_scalar
    return design_of(
        spec,
        windowed=Rope(spec.rope_local_base_freq) if isinstance(spec, Gemma3Spec) else None,
        scaling="offset",
        embedding_scale=math.sqrt(spec.hidden_size),
        placement="both",
        score_scale=None if scalar is None else scalar**-0.5,
        score_cap=(spec.attn_logit_softcapping or None) if isinstance(spec, Gemma2Spec) else None,
        logit_cap=spec.final_logit_softcapping or None,
    )


_TENSORS = functools.partial(
    decoder_tensors,
    norms=AROUND,
    images=(r"(model\.)?(vision_tower|multi_modal_projector)\.",),
    other_names=BESIDE_IMAGES,
)
"""The tensors of ``Gemma2ForCausalLM`` and ``Gemma3ForCausalLM``."""
_DEFAULTS = {"tie_word_embeddings": True, "head_dim": 256, "attention_bias": False}
_NAMES = {"hidden_activation": "hidden_act"}
_ALTERNATING = {
    **_DEFAULTS,
    "num_key_value_heads": 4,
    "hidden_activation": _TANH,
    "sliding_window": 4096,
    "layer_types": None,
    "query_pre_attn_scalar": 256.0,
    "final_logit_softcapping": 0.0,
}
_GEMMA = DecoderConfig(GemmaSpec, {**_DEFAULTS, "num_key_value_heads": 16})
_GEMMA2 = DecoderConfig(
    Gemma2Spec,
    {**_ALTERNATING, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    names=_NAMES,
)
_GEMMA3 = DecoderConfig(
    Gemma3Spec,
    {**_ALTERNATING, "rope_theta": 1_000_000.0},
    constants={"attn_logit_softcapping": None},
    names=_NAMES,
    by_layer=True,
)
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")


def _read(config: ConfigReader) -> GemmaSpec:
    config.only("use_bidirectional_attention", False)
    # The published files say "gelu", and the models were trained with its tanh form.
    found = read_activation(config, "hidden_act" if config.has("hidden_act") else "hidden_activation", _TANH)
    return _GEMMA.read(config, hidden_act=_TANH if found == "gelu" else found)


def _write(spec: GemmaSpec, positions: int) -> dict[str, Any]:
    return {**_GEMMA.write(spec, positions), "hidden_act": spec.hidden_act, "hidden_activation": spec.hidden_act}


def _alternating(config: ConfigReader, of: DecoderConfig) -> dict[str, Any]:
    """The fields of layers that alternate. Older files may have the length of the pattern in place of ``layer_types``.
    A null is no cap."""
    config.only("use_bidirectional_attention", False)
    fields, pattern = of.fields(config), of.section.pattern
    length = config.integer("sliding_window_pattern", pattern)
    if fields["layer_types"] is None and length != pattern:
        layers = range(1, fields["num_hidden_layers"] + 1)
        fields["layer_types"] = ["full_attention" if number % length == 0 else "sliding_attention" for number in layers]
    return fields | {name: 0.0 for name in _CAPS if name in fields and name in config.document and not config.has(name)}


def _read_gemma2(config: ConfigReader) -> Gemma2Spec:
    return Gemma2Spec(**_alternating(config, _GEMMA2))


def _read_gemma3(config: ConfigReader) -> Gemma3Spec:
    windowed = read_windowed_theta(config, "rope_local_base_freq", 10_000.0)
    return Gemma3Spec(**_alternating(config, _GEMMA3), rope_local_base_freq=windowed)


def _write_alternating(of: DecoderConfig, spec: Gemma2Spec | Gemma3Spec, positions: int) -> dict[str, Any]:
    entries, scalar = of.write(spec, positions), spec.query_pre_attn_scalar or spec.head_size
    caps = {name: entries[name] or None for name in _CAPS}
    return {**entries, **caps, "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar}


def _write_gemma3(spec: Gemma3Spec, positions: int) -> dict[str, Any]:
    return {**_write_alternating(_GEMMA3, spec, positions), "rope_local_base_freq": spec.rope_local_base_freq}


GEMMA = decoder_family(
    GemmaSpec, design, PublishedModel("gemma", ("GemmaForCausalLM",), decoder_tensors, _read, _write)
)
GEMMA2 = decoder_family(
    Gemma2Spec,
    alternating_design,
    PublishedModel(
        "gemma2", ("Gemma2ForCausalLM",), _TENSORS, _read_gemma2, functools.partial(_write_alternating, _GEMMA2)
    ),
)


def _tensors_with_images(spec: Gemma3Spec) -> Tensors:
    """The tensors of ``Gemma3ForConditionalGeneration``, by the names of the published files."""
    tower, beside, text = "vision_tower.vision_model", "multi_modal_projector.mm_", decoder_tensors(spec, norms=AROUND)
    pixels, layer = (axes.COLOUR, axes.PATCH_ROW, axes.PATCH_COLUMN), f"{tower}.encoder.layers.{{layers}}"
    return dataclasses.replace(
        text,
        tensors=(
            *(dataclasses.replace(one, name=f"language_model.{one.name}") for one in text.tensors),
            *with_bias(f"{tower}.embeddings.patch_embedding", "encoder.patches", axes.EMBED, *pixels),
            tensor(f"{tower}.embeddings.position_embedding.weight", "encoder.positions", axes.SOURCE, axes.EMBED),
            *plain_block(layer, "encoder.blocks.stacked", ("layer_norm1", "layer_norm2"), "mlp."),
            *with_bias(f"{tower}.post_layernorm", "encoder.norm", axes.EMBED),
            tensor(f"{beside}soft_emb_norm.weight", "encoder.pooled_norm.weight", axes.CHANNELS),
            tensor(f"{beside}input_projection_weight", "encoder.projection.weight", axes.CHANNELS, axes.EMBED),
        ),
        ignored=tuple(rf"(language_model\.)?{one}" for one in text.ignored),
        other_names=(
            (r"model\.(?=multi_modal)", ""),
            (r"(model\.)?vision_tower\.(?!vision_model)", "vision_tower.vision_model."),
            (r"model\.language_model\.", "language_model.model."),
            (r"lm_head\.", "language_model.lm_head."),
        ),
    )


_VISION = {"num_hidden_layers": 12, "intermediate_size": 3072, "num_attention_heads": 12, "patch_size": 16}
"""Keys of ``vision_config``, with the defaults of the class in transformers."""
_COMPUTED = {"hidden_act": _TANH, "layer_norm_eps": EPSILON, "num_channels": COLOURS, "vision_use_head": False}


def _read_with_images(config: ConfigReader) -> Gemma3Spec:
    seen, tokens = config.part("vision_config"), config.integer("mm_tokens_per_image", 256)
    fields = read_keys(seen, _VISION, {})
    vision = VisionSpec(
        **fields,
        head_dim=seen.integer("hidden_size", 768) // fields["num_attention_heads"],
        tokens_per_side=math.isqrt(tokens),
        image_token_index=config.integer("image_token_index", 262_144),
    )
    config.only("mm_tokens_per_image", vision.tokens)
    seen.all_only(_seen(vision))
    return _read_gemma3(config).but(vision=vision)


def _seen(vision: VisionSpec) -> dict[str, Any]:
    """The entries of ``vision_config``."""
    sizes = {"hidden_size": vision.hidden_size, "image_size": vision.image_size}
    return {**write_keys(vision, _VISION, {}), **sizes, **_COMPUTED}


def _write_with_images(spec: Gemma3Spec, positions: int) -> dict[str, Any]:
    vision = spec.vision or VisionSpec()
    return {
        "text_config": {"model_type": "gemma3_text", **_write_gemma3(spec, positions)},
        "vision_config": {"model_type": "siglip_vision_model", "attention_dropout": 0.0, **_seen(vision)},
        "mm_tokens_per_image": vision.tokens,
        "image_token_index": vision.image_token_index,
        **{name: getattr(spec, name) for name in ("initializer_range", "tie_word_embeddings")},
    }


_WITH_IMAGES = "Gemma3ForConditionalGeneration"
_GEMMA3_DEFAULTS = {"num_attention_heads": 8, "vocab_size": 262_208, "max_position_embeddings": 131_072}
GEMMA3 = decoder_family(
    Gemma3Spec,
    alternating_design,
    PublishedModel(
        "gemma3_text",
        ("Gemma3ForCausalLM", _WITH_IMAGES),
        _TENSORS,
        _read_gemma3,
        _write_gemma3,
        classes="Gemma3TextForSequenceClassification",
        defaults=_GEMMA3_DEFAULTS,
        covers=lambda spec: spec.vision is None,
    ),
    PublishedModel(
        "gemma3",
        (_WITH_IMAGES,),
        _tensors_with_images,
        _read_with_images,
        _write_with_images,
        defaults=_GEMMA3_DEFAULTS,
        images=True,
        classes="",
    ),
    seeing=(VisionTower.init, SeeingDecoder),
)
