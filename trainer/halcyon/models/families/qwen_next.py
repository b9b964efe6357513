"""Qwen3-Next and Qwen 3.5 (Qwen Team 2025): gated delta nets beside gated attention, with an MLP or experts each.

Three layers with a gated delta net follow each other, then one with attention. The norms have a factor of 1 + weight,
except those of the outputs of a gated delta net. Attention rotates a part of each head.

In the files of Qwen3-Next, the projections of a gated delta net are fused by key head. Qwen 3.5 has them one after the
other. Its published files in bfloat16 have the experts of a layer in one tensor; transformers saves them, as all
others, with a tensor each. The text model is read from the files of a Qwen 3.5 with images, too.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, get_args

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis

from halcyon.models.axes import EMBED, HEAD_SIZE, KV_HEADS, LAYERS, PAIR, Q_HEADS_PER_GROUP, TAPS, VALUE_SIZE
from halcyon.models.design import Design, LayersInit, self_attention
from halcyon.models.families.family import decoder_family, design_of, mixture_of
from halcyon.models.parts.gated_delta_net import CausalConvolution, DeltaAxes, GatedDeltaNet
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.weight import normal
from halcyon.models.published import (
    ConfigReader,
    DecoderConfig,
    Layers,
    PublishedModel,
    Tensor,
    Tensors,
    decoder_tensors,
)
from halcyon.models.published.decoder_config import read_layer_types
from halcyon.models.published.tensors import BESIDE_IMAGES, QUERIES, FurtherNames, tensor
from halcyon_api.spec.families.qwen_next import MixerType, Qwen3NextSpec
from halcyon_api.spec.families.section import DecoderSizes

_MOST_DECAY = 16.0
"""Upper end of the first decays, which are drawn evenly."""
_HEADS = (KV_HEADS, Q_HEADS_PER_GROUP)
_DELTA_KEYS = (KV_HEADS, HEAD_SIZE)
_DELTA_VALUES = (*_HEADS, VALUE_SIZE)
_WITH_KEYS = (("query", _DELTA_KEYS), ("key", _DELTA_KEYS), ("value", _DELTA_VALUES))
"""The parts of a gated delta net and their features."""


def design(spec: Qwen3NextSpec) -> Design:
    """What the decoder is made of."""
    return design_of(
        spec,
        partial=spec.partial_rotary_factor,
        scaling="offset",
        attention=functools.partial(self_attention, gated=True),
        mixture=mixture_of(spec, normalised=spec.norm_topk_prob),
        recurrence=functools.partial(_delta_net, spec),
        recurrent=_is_recurrent(spec),
    )


def _is_recurrent(spec: Qwen3NextSpec) -> tuple[bool, ...]:
    return tuple(mixer == "linear_attention" for mixer in spec.layers_by_type)


def _delta_net(spec: Qwen3NextSpec, init: LayersInit) -> GatedDeltaNet:
    """Random parameters: normal; factors of decays even in (0.01, 16), their shifts 1."""
    key_heads, layers, dtype = spec.linear_num_key_heads, init.layers, init.dtype
    at = DeltaAxes(
        embed=init.design.axes.embed,
        key_heads=Axis(KV_HEADS, key_heads),
        value_heads=Axis(Q_HEADS_PER_GROUP, spec.linear_num_value_heads // key_heads),
        key_size=Axis(HEAD_SIZE, spec.linear_key_head_dim),
        value_size=Axis(VALUE_SIZE, spec.linear_value_head_dim),
    )
    own = iter(jax.random.split(next(init.keys), 11))
    heads, linear = (at.key_heads, at.value_heads), dataclasses.replace(init, keys=own).linear

    def convolution(features: tuple[Axis, ...]) -> CausalConvolution:
        axis = Axis(TAPS, spec.linear_conv_kernel_dim)
        weight = normal(next(own), (layers,), features, (axis,), std=spec.initializer_range, dtype=dtype)
        return CausalConvolution(axis, spec.hidden_act, weight)

    decays = jax.random.uniform(next(own), [axis.size for axis in (layers, *heads)], jnp.float32, 0.01, _MOST_DECAY)
    embed = (at.embed,)
    return GatedDeltaNet(
        query=linear(embed, at.keys),
        key=linear(embed, at.keys),
        value=linear(embed, at.values),
        gate=linear(embed, at.values),
        rate=linear(embed, heads),
        decay=linear(embed, heads),
        query_convolution=convolution(at.keys),
        key_convolution=convolution(at.keys),
        value_convolution=convolution(at.values),
        norm=RmsNorm.init(at.value_size, stacked=(layers,), epsilon=spec.rms_norm_eps, dtype=dtype, scaling="rounded"),
        output=linear(at.values, embed),
        axes=at,
        log_decay=hax.named(jnp.log(decays).astype(dtype), (layers, *heads)),
        decay_shift=hax.ones((layers, *heads), dtype=dtype),
    )


def tensors(spec: Qwen3NextSpec, *, in_one: bool = False) -> Tensors:
    """The tensors of ``Qwen3NextForCausalLM`` and the classes of Qwen 3.5; `in_one`: with all experts of a layer in one
    tensor."""
    return decoder_tensors(
        spec,
        mixture=functools.partial(_mixture, in_one=in_one),
        attention=functools.partial(_attention_tensors, sizes=spec.sizes()),
        recurrence=functools.partial(_delta_net_tensors, by_head=spec.fused_projections),
        recurrent=_is_recurrent(spec),
        names=FurtherNames("mtp.layers.{layers}", _beside, ((r"mtp\.", ""),)),
        images=(r"(model\.)?visual\.",),
        other_names=BESIDE_IMAGES,
    )


def _beside(layers: Layers) -> list[Tensor]:
    norms = {"pre_fc_norm_embedding": "embedding_norm", "pre_fc_norm_hidden": "hidden_norm", "norm": "norm"}
    return [
        *(
            tensor(f"mtp.{name}.weight", f"{layers.block}.{ours}.weight", (LAYERS, EMBED))
            for name, ours in norms.items()
        ),
        tensor("mtp.fc.weight", f"{layers.block}.projection.weight", (LAYERS, EMBED), PAIR),
    ]


def _attention_tensors(layers: Layers, sizes: DecoderSizes) -> list[Tensor]:
    def query(kind: str, *inputs: str) -> Tensor:
        parts = (layers.piece(f"attention.{name}.{kind}", QUERIES, *inputs) for name in ("query", "gate"))
        return layers.fused(f"self_attn.q_proj.{kind}", 0, 2, *parts)

    return [
        query("weight", EMBED),
        *([query("bias")] if sizes.query_bias else []),
        *(one for one in layers.self_attention(sizes) if ".q_proj." not in one.name),
    ]


def _delta_net_tensors(layers: Layers, by_head: bool) -> list[Tensor]:
    def projection(name: str, within: int, *parts: tuple[str, tuple[str, ...]]) -> Tensor:
        pieces = (layers.piece(f"attention.{part}.weight", axes, EMBED) for part, axes in parts)
        return layers.fused(f"linear_attn.{name}.weight", 0, within, *pieces)

    gate, rate, decay = ("gate", _DELTA_VALUES), ("rate", _HEADS), ("decay", _HEADS)
    if by_head:
        projections = [projection("in_proj_qkvz", 1, *_WITH_KEYS, gate), projection("in_proj_ba", 1, rate, decay)]
    else:
        alone = (projection(f"in_proj_{name}", 0, part) for name, part in (("z", gate), ("b", rate), ("a", decay)))
        projections = [projection("in_proj_qkv", 0, *_WITH_KEYS), *alone]
    convolutions = (layers.piece(f"attention.{name}_convolution.weight", axes, (), TAPS) for name, axes in _WITH_KEYS)
    return [
        *projections,
        layers.fused("linear_attn.conv1d.weight", 0, 0, *convolutions),
        layers.tensor("linear_attn.A_log", "attention.log_decay", _HEADS),
        layers.tensor("linear_attn.dt_bias", "attention.decay_shift", _HEADS),
        layers.tensor("linear_attn.norm.weight", "attention.norm.weight", VALUE_SIZE),
        layers.tensor("linear_attn.out_proj.weight", "attention.output.weight", EMBED, _DELTA_VALUES),
    ]


def _mixture(layers: Layers, *, in_one: bool) -> list[Tensor]:
    return [
        *(layers.fused_experts() if in_one else layers.experts()),
        *layers.mlp("mlp.shared_expert", "mlp.shared"),
        layers.tensor("mlp.shared_expert_gate.weight", "mlp.shared_gate.weight", (), EMBED),
    ]


_DEFAULTS: dict[str, Any] = {
    "num_key_value_heads": 2,
    "head_dim": 256,
    "hidden_act": "silu",
    "attention_bias": False,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
_EXPERTS: dict[str, Any] = {
    **_DEFAULTS,
    "intermediate_size": 1,  # absent where every layer has experts
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "router_aux_loss_coef": 0.001,
}
_LAYERS: dict[str, Any] = {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
"""Keys of which the class of Qwen 3.5 computes the defaults alone."""
_DENSE_35 = DecoderConfig(Qwen3NextSpec, {**_DEFAULTS, "num_key_value_heads": 4}, partial=0.25)
_SPARSE_35 = DecoderConfig(Qwen3NextSpec, _EXPERTS, partial=0.25)
_NEXT = DecoderConfig(
    Qwen3NextSpec,
    {**_EXPERTS, **_LAYERS, "num_experts": 512, "num_experts_per_tok": 10},
    constants={"output_router_logits": False},
    partial=0.25,
)


def _read_mixers(config: ConfigReader) -> list[MixerType]:
    kinds, interval = read_layer_types(config, get_args(MixerType)), config.integer("full_attention_interval", 4)
    layers = range(1, config.integer("num_hidden_layers") + 1)
    return (
        ["linear_attention" if number % interval else "full_attention" for number in layers] if kinds is None else kinds
    )


def _read(of: DecoderConfig, config: ConfigReader, **changes: Any) -> Qwen3NextSpec:
    return of.read(config, layer_types=_read_mixers(config), **changes)


def _is_dense(spec: Qwen3NextSpec) -> bool:
    return not spec.num_experts and not spec.fused_projections


def _is_sparse(spec: Qwen3NextSpec) -> bool:
    return all(spec.experts().with_experts) and spec.norm_topk_prob and not spec.fused_projections


def _write(spec: Qwen3NextSpec, positions: int) -> dict[str, Any]:
    return {
        **(_DENSE_35 if _is_dense(spec) else _NEXT).write(spec, positions),
        "layer_types": list(spec.layers_by_type),
    }


def _form(model_type: str, name: str, read: Callable[[ConfigReader], Qwen3NextSpec], **other: Any) -> PublishedModel:
    architectures = (f"{name}ForCausalLM", *((f"{name}ForConditionalGeneration",) if "covers" in other else ()))
    return PublishedModel(model_type, architectures, tensors, read, _write, **other)


QWEN3_NEXT = decoder_family(
    Qwen3NextSpec,
    design,
    _form(
        "qwen3_5_text",
        "Qwen3_5",
        functools.partial(_read, _DENSE_35, num_experts=0),
        covers=_is_dense,
        classes="Qwen3_5TextForSequenceClassification",
    ),
    _form(
        "qwen3_5_moe_text",
        "Qwen3_5Moe",
        functools.partial(_read, _SPARSE_35),
        covers=_is_sparse,
        classes="",
        fused=functools.partial(tensors, in_one=True),
    ),
    _form("qwen3_next", "Qwen3Next", functools.partial(_read, _NEXT, fused_projections=True)),
)
"""The last form is also that of all models of the section that Qwen 3.5 does not have."""
