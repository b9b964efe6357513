"""Qwen 2 and 2.5 (Yang et al. 2024): biases of queries, keys, values. Qwen 3 (Yang et al. 2025): norms of queries
and keys of a head; with experts in some or all layers, or without.

Of the files of Qwen 2.5-VL (Bai et al. 2025), the text model is read: in a text, the three numbers of a position are
equal, so its rotation is that of Qwen 2.
"""

import functools
from typing import Any, TypeVar

from halcyon.models.design import Design
from halcyon.models.families.family import decoder_family, design_of, mixture_of
from halcyon.models.published import (
    ConfigReader,
    DecoderConfig,
    PublishedModel,
    Tensors,
    decoder_tensors,
)
from halcyon.models.published.tensors import BESIDE_IMAGES
from halcyon_api.spec.families.qwen import Qwen2Spec, Qwen3MoeSpec, Qwen3Spec, QwenSection


def design(spec: QwenSection) -> Design:
    """What the decoder is made of."""
    return design_of(spec, spec.hidden_act)


def expert_design(spec: Qwen3MoeSpec) -> Design:
    """What the decoder with experts is made of."""
    return design_of(spec, spec.hidden_act, mixture=mixture_of(spec, spec.hidden_act, normalised=spec.norm_topk_prob))


def qwen3_moe_tensors(spec: Qwen3MoeSpec) -> Tensors:
    """The tensors of ``Qwen3MoeForCausalLM``."""
    return decoder_tensors(spec, mixture=lambda layers: layers.experts("mlp.gate", "mlp.experts"))


Section = TypeVar("Section", bound=QwenSection)

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


def _read(of: DecoderConfig[Section], config: ConfigReader) -> Section:
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


QWEN2 = decoder_family(
    Qwen2Spec,
    design,
    PublishedModel("qwen2", ("Qwen2ForCausalLM",), decoder_tensors, functools.partial(_read, _QWEN2), _QWEN2.write),
    PublishedModel(
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
    ),
)
QWEN3 = decoder_family(
    Qwen3Spec,
    design,
    PublishedModel("qwen3", ("Qwen3ForCausalLM",), decoder_tensors, functools.partial(_read, _QWEN3), _QWEN3.write),
)
QWEN3_MOE = decoder_family(
    Qwen3MoeSpec,
    expert_design,
    PublishedModel("qwen3_moe", ("Qwen3MoeForCausalLM",), qwen3_moe_tensors, _read_qwen3_moe, _write_qwen3_moe),
)
