"""Qwen 2 and 2.5 (Yang et al. 2024): biases of queries, keys, values. Qwen 3 (Yang et al. 2025): norms of queries
and keys of a head; with experts in some or all layers, or without.

Of the files of Qwen 2.5-VL (Bai et al. 2025), the text model is read alone, or with `vision` the whole model. In a
text, the three numbers of a position are equal, so its rotation is that of Qwen 2.
"""

import dataclasses
import functools
from typing import Any

from halcyon.models import axes
from halcyon.models.design import Design
from halcyon.models.families.family import decoder_family, design_of, mixture_of
from halcyon.models.patch_tower import ROTATION, WINDOW, PatchTower, PlacedDecoder, sections
from halcyon.models.published import ConfigReader, DecoderConfig, PublishedModel, Tensors, decoder_tensors
from halcyon.models.published.decoder_config import read_keys, write_keys
from halcyon.models.published.tensors import BESIDE_IMAGES, Layers, tensor, with_bias
from halcyon_api.spec.families.qwen import Qwen2Spec, Qwen3MoeSpec, Qwen3Spec
from halcyon_api.spec.families.vision import FRAMES, QwenVisionSpec
from halcyon_api.spec.model_shape import COLOURS


def expert_design(spec: Qwen3MoeSpec) -> Design:
    """What the decoder with experts is made of."""
    return design_of(spec, mixture=mixture_of(spec, normalised=spec.norm_topk_prob))


_MOE_TENSORS = functools.partial(decoder_tensors, mixture=Layers.experts)


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
_QWEN3_MOE = DecoderConfig(
    Qwen3MoeSpec,
    {
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "router_aux_loss_coef": 0.001,
    },
    constants={"output_router_logits": False},
)
_NEWER_EXPERTS = "num_local_experts"
"""The name of ``num_experts`` in newer versions of transformers."""


def _windowed(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a section of Qwen: without a window, no layer uses one."""
    return fields | {"use_sliding_window": fields["use_sliding_window"] and fields["sliding_window"] is not None}


def _read(of: DecoderConfig, config: ConfigReader) -> Any:
    return of.section(**_windowed(of.fields(config)))


def _read_beside_images(config: ConfigReader) -> Qwen2Spec:
    """The text model of Qwen 2.5-VL, whose files call its rotation ``mrope``, and transformers ``default``."""
    document = dict(config.document)
    for name in ("rope_parameters", "rope_scaling"):
        if entries := config.part(name).document:
            document[name] = {key: "default" if value == "mrope" else value for key, value in entries.items()}
    return _read(_QWEN2, ConfigReader(document, config.where))


def _read_qwen3_moe(config: ConfigReader) -> Qwen3MoeSpec:
    fields = _windowed(_QWEN3_MOE.fields(config))
    if config.has(_NEWER_EXPERTS) and not config.has("num_experts"):
        fields["num_experts"] = config.integer(_NEWER_EXPERTS)
    return Qwen3MoeSpec(**fields)


def _write_qwen3_moe(spec: Qwen3MoeSpec, positions: int) -> dict[str, Any]:
    window = spec.window if spec.use_sliding_window else None
    return {**_QWEN3_MOE.write(spec, positions), "sliding_window": window, _NEWER_EXPERTS: spec.num_experts}


def _tensors_with_images(spec: Qwen2Spec) -> Tensors:
    """The tensors of ``Qwen2_5_VLForConditionalGeneration``, by the names of the published files."""
    text, vision, heads = decoder_tensors(spec), spec.vision or QwenVisionSpec(), (axes.HEADS, axes.HEAD_SIZE)
    layers = Layers("encoder.blocks.stacked", range(vision.num_hidden_layers), "visual.blocks.{layers}")
    fused = [f"attention.{part}" for part in ("query", "key", "value")]
    pixels = (axes.COLOUR, axes.FRAME, axes.PATCH_ROW, axes.PATCH_COLUMN)
    return dataclasses.replace(
        text,
        tensors=(
            *text.tensors,
            tensor("visual.patch_embed.proj.weight", "encoder.patches.weight", axes.EMBED, *pixels),
            *layers.norms({"norm1": "attention_norm", "norm2": "mlp_norm"}),
            layers.fused("attn.qkv.weight", 0, 0, *(layers.piece(f"{one}.weight", heads, axes.EMBED) for one in fused)),
            layers.fused("attn.qkv.bias", 0, 0, *(layers.piece(f"{one}.bias", heads) for one in fused)),
            *layers.linear("attn.proj", "attention.output", axes.EMBED, heads, True),
            *layers.mlp("mlp", "mlp", bias=True),
            tensor("visual.merger.ln_q.weight", "encoder.norm.weight", axes.EMBED),
            *with_bias("visual.merger.mlp.0", "encoder.merger.up", axes.MLP, axes.CHANNELS),
            *with_bias("visual.merger.mlp.2", "encoder.merger.down", axes.EMBED, axes.MLP),
        ),
        other_names=((r"model\.visual\.", "visual."), (r"model\.language_model\.", "model.")),
    )


_VISION = {"depth": 32, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14}
"""Keys of ``vision_config``, with the defaults of the class in transformers."""
_VISION_NAMES = {"depth": "num_hidden_layers", "num_heads": "num_attention_heads"}
_SIZE = "image_size"
"""A key of our own: the model takes images of any size."""
_TOKENS = {"image_token_id": 151_655, "video_token_id": 151_656}
_TOKENS |= {"vision_start_token_id": 151_652, "vision_end_token_id": 151_653}


def _read_with_images(config: ConfigReader) -> Qwen2Spec:
    seen, text = config.part("vision_config"), _read_beside_images(config)
    fields = read_keys(seen, _VISION, _VISION_NAMES)
    vision = QwenVisionSpec(
        **fields,
        head_dim=seen.integer("hidden_size", 3584) // fields["num_attention_heads"],
        tokens_per_side=config.integer(_SIZE, 32 * fields["patch_size"]) // (2 * fields["patch_size"]),
        image_token_index=config.integer("image_token_id", _TOKENS["image_token_id"]),
    )
    seen.all_only(_seen(vision, text.hidden_size))
    for name in ("rope_parameters", "rope_scaling"):
        config.part(name).only("mrope_section", list(sections(text.head_size)))
    return text.but(vision=vision)


def _seen(vision: QwenVisionSpec, width: int) -> dict[str, Any]:
    """The entries of ``vision_config``."""
    return {
        **write_keys(vision, _VISION, _VISION_NAMES),
        "hidden_size": vision.hidden_size,
        "out_hidden_size": width,
        "hidden_act": "silu",
        "in_channels": COLOURS,
        "spatial_merge_size": vision.pooled,
        "temporal_patch_size": FRAMES,
        "window_size": WINDOW * vision.patch_size,
        "fullatt_block_indexes": [number for number, whole in enumerate(vision.whole) if whole],
        "tokens_per_second": 2,
        "rope_parameters": {"rope_theta": ROTATION.theta, "rope_type": "axial"},
    }


def _write_with_images(spec: Qwen2Spec, positions: int) -> dict[str, Any]:
    vision, written = spec.vision or QwenVisionSpec(), _QWEN2.write(spec, positions)
    places = {"mrope_section": list(sections(spec.head_size))}
    return {
        **written,
        "rope_parameters": {**written["rope_parameters"], **places},
        "rope_scaling": {"type": "mrope", **places},
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "initializer_range": 0.02,  # of no weight, and not compared with that of a run
            **_seen(vision, spec.hidden_size),
        },
        **_TOKENS,
        "image_token_id": vision.image_token_index,
        _SIZE: vision.image_size,
    }


_BESIDE_IMAGES = PublishedModel(
    "qwen2_5_vl",
    ("Qwen2_5_VLForConditionalGeneration",),
    functools.partial(decoder_tensors, images=(r"(model\.)?visual\.",), other_names=BESIDE_IMAGES),
    _read_beside_images,
    _QWEN2.write,
    defaults={
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 152_064,
        "rms_norm_eps": 1e-5,
        "max_window_layers": 80,
    },
    classes="",
    covers=lambda spec: spec.vision is None,
)
QWEN2 = decoder_family(
    Qwen2Spec,
    design_of,
    PublishedModel(
        "qwen2",
        ("Qwen2ForCausalLM",),
        decoder_tensors,
        functools.partial(_read, _QWEN2),
        _QWEN2.write,
        covers=lambda spec: spec.vision is None,
    ),
    _BESIDE_IMAGES,
    dataclasses.replace(
        _BESIDE_IMAGES,
        tensors=_tensors_with_images,
        read=_read_with_images,
        write=_write_with_images,
        images=True,
        covers=lambda spec: True,
    ),
    seeing=(PatchTower.init, PlacedDecoder),
)
QWEN3 = decoder_family(
    Qwen3Spec,
    design_of,
    PublishedModel("qwen3", ("Qwen3ForCausalLM",), decoder_tensors, functools.partial(_read, _QWEN3), _QWEN3.write),
)
QWEN3_MOE = decoder_family(
    Qwen3MoeSpec,
    expert_design,
    PublishedModel("qwen3_moe", ("Qwen3MoeForCausalLM",), _MOE_TENSORS, _read_qwen3_moe, _write_qwen3_moe),
)
