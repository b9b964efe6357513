"""Qwen3-Next and Qwen 3.5 in the form of Hugging Face. The text model is read from the files of a Qwen 3.5 with images, too.

In the files of Qwen3-Next, the projections of a gated delta net are fused by key head. Qwen 3.5 has them one after the other. Its
published files in bfloat16 have the experts of a layer in one tensor; transformers saves them, as all others, with a tensor each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast, get_args

from halcyon.errors import BadConfiguration
from halcyon.models.axes import EMBED, HEAD_SIZE, KV_HEADS, Q_HEADS_PER_GROUP, TAPS, VALUE_SIZE
from halcyon.models.hybrid_decoder import Form, form_of
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import read_activation, read_decoder, write_decoder
from halcyon.models.weights.expert_decoder import block_tensors, read_losses
from halcyon.models.weights.family import Family
from halcyon.models.weights.layers import KEYS, LAYER, QUERIES, SEPARATE, Layers, tables, unused
from halcyon.models.weights.qwen_moe import read_dense_layers
from halcyon.models.weights.rope import read_rope
from halcyon.models.weights.tensors import Join, Tensor, Tensors, piece
from halcyon_api.spec.families.qwen_next import MixerType, Qwen3NextSpec

_HEADS = (KV_HEADS, Q_HEADS_PER_GROUP)
_DELTA_KEYS = (KV_HEADS, HEAD_SIZE)
_DELTA_VALUES = (*_HEADS, VALUE_SIZE)

_NOT_READ = (r"mtp\..*", r"(model\.)?visual\..*")
"""Layers that predict further tokens, and the part for images."""
_TEXT = ((r"model\.language_model\.", "model."), (r"language_model\.model\.", "model."), (r"language_model\.lm_head\.", "lm_head."))


def _separate(layers: Layers) -> list[Tensor]:
    return layers.experts("mlp.gate", "mlp.experts", SEPARATE)


def _fused(layers: Layers) -> list[Tensor]:
    return layers.fused_experts("mlp.gate", "mlp.experts")


def _tensors(
    spec: Qwen3NextSpec, projections: Callable[[Layers], list[Tensor]], experts: Callable[[Layers], list[Tensor]] = _separate
) -> Tensors:
    tied = spec.tie_word_embeddings
    found = [*tables(tied=tied)]
    numbers: dict[Form, list[int]] = {}
    with_experts = spec.experts().with_experts
    for number, (mixer, sparse) in enumerate(zip(spec.mixers, with_experts, strict=True)):
        numbers.setdefault(form_of(mixer == "linear_attention", sparse), []).append(number)
    for form, own in numbers.items():
        layers = Layers(f"{form}.stacked", own)
        is_linear = spec.mixers[own[0]] == "linear_attention"
        of_mixer = _delta_net(layers, projections) if is_linear else _attention(layers, spec.attention_bias)
        found += block_tensors(layers, of_mixer, _mixture(experts) if with_experts[own[0]] else None)
    return Tensors(tuple(found), ignored=(*_NOT_READ, *unused(tied=tied)), other_names=_TEXT)


def _attention(layers: Layers, bias: bool) -> list[Tensor]:
    path = f"{layers.block}.attention"
    query = tuple(piece(f"{path}.{name}.weight", QUERIES, EMBED) for name in ("query", "gate"))
    found = [
        Tensor(f"{LAYER}.self_attn.q_proj.weight", query, Join(0, 2), layers.numbers),
        *layers.linear("self_attn.k_proj", "attention.key", KEYS, EMBED, bias),
        *layers.linear("self_attn.v_proj", "attention.value", KEYS, EMBED, bias),
        *layers.linear("self_attn.o_proj", "attention.output", EMBED, QUERIES, bias),
        layers.tensor("self_attn.q_norm.weight", "attention.query_norm.weight", HEAD_SIZE),
        layers.tensor("self_attn.k_norm.weight", "attention.key_norm.weight", HEAD_SIZE),
    ]
    if bias:
        biases = tuple(piece(f"{path}.{name}.bias", QUERIES) for name in ("query", "gate"))
        found.append(Tensor(f"{LAYER}.self_attn.q_proj.bias", biases, Join(0, 2), layers.numbers))
    return found


def _delta_net(layers: Layers, projections: Callable[[Layers], list[Tensor]]) -> list[Tensor]:
    convolved = (("query", _DELTA_KEYS), ("key", _DELTA_KEYS), ("value", _DELTA_VALUES))
    pieces = tuple(piece(f"{layers.block}.attention.{name}_convolution.weight", axes, (), TAPS) for name, axes in convolved)
    return [
        *projections(layers),
        Tensor(f"{LAYER}.linear_attn.conv1d.weight", pieces, Join(0, 0), layers.numbers),
        layers.tensor("linear_attn.A_log", "attention.log_decay", _HEADS),
        layers.tensor("linear_attn.dt_bias", "attention.decay_shift", _HEADS),
        layers.tensor("linear_attn.norm.weight", "attention.norm.weight", VALUE_SIZE),
        layers.tensor("linear_attn.out_proj.weight", "attention.output.weight", EMBED, _DELTA_VALUES),
    ]


def _projection(layers: Layers, name: str, within: int, *parts: tuple[str, tuple[str, ...]]) -> Tensor:
    pieces = tuple(piece(f"{layers.block}.attention.{part}.weight", axes, EMBED) for part, axes in parts)
    return Tensor(f"{LAYER}.linear_attn.{name}.weight", pieces, Join(0, within), layers.numbers)


def _by_head(layers: Layers) -> list[Tensor]:
    parts = (("query", _DELTA_KEYS), ("key", _DELTA_KEYS), ("value", _DELTA_VALUES), ("gate", _DELTA_VALUES))
    return [
        _projection(layers, "in_proj_qkvz", 1, *parts),
        _projection(layers, "in_proj_ba", 1, ("rate", _HEADS), ("decay", _HEADS)),
    ]


def _in_order(layers: Layers) -> list[Tensor]:
    return [
        _projection(layers, "in_proj_qkv", 0, ("query", _DELTA_KEYS), ("key", _DELTA_KEYS), ("value", _DELTA_VALUES)),
        *(_projection(layers, f"in_proj_{name}", 0, (part, axes)) for name, part, axes in _ALONE),
    ]


_ALONE = (("z", "gate", _DELTA_VALUES), ("b", "rate", _HEADS), ("a", "decay", _HEADS))


def _mixture(experts: Callable[[Layers], list[Tensor]]) -> Callable[[Layers], Sequence[Tensor]]:
    def of(layers: Layers) -> list[Tensor]:
        return [
            *experts(layers),
            *layers.mlp("mlp.shared_expert", "mlp.shared"),
            layers.tensor("mlp.shared_expert_gate.weight", "mlp.shared_gate.weight", (), EMBED),
        ]

    return of


def _common(config: ConfigReader, key_value_heads: int) -> dict[str, Any]:
    part = read_rope(config, 10_000.0, partial=True).part
    needed = ConfigReader({"intermediate_size": 1, **config.document}, config.where)  # absent where every layer has experts
    common = read_decoder(needed, key_value_heads=key_value_heads, partial=True)
    return common | {
        "head_dim": common["head_dim"] or 256,  # the default of the class in transformers
        "hidden_act": read_activation(config, "hidden_act", "silu"),
        "attention_bias": config.flag("attention_bias", False),
        "partial_rotary_factor": 0.25 if part is None else part,
        "linear_num_key_heads": config.integer("linear_num_key_heads", 16),
        "linear_num_value_heads": config.integer("linear_num_value_heads", 32),
        "linear_key_head_dim": config.integer("linear_key_head_dim", 128),
        "linear_value_head_dim": config.integer("linear_value_head_dim", 128),
        "linear_conv_kernel_dim": config.integer("linear_conv_kernel_dim", 4),
        "layer_types": _read_mixers(config),
    }


def _read_mixers(config: ConfigReader) -> list[MixerType]:
    found = config.document.get("layer_types")
    if found is None:
        interval = config.integer("full_attention_interval", 4)
        layers = range(1, config.integer("num_hidden_layers") + 1)
        return ["linear_attention" if number % interval else "full_attention" for number in layers]
    if not isinstance(found, list) or not set(cast("list[Any]", found)) <= set(get_args(MixerType)):
        raise BadConfiguration(f"{config.where}: layer_types must be a list of {' and '.join(get_args(MixerType))}")
    return cast("list[MixerType]", found)


def _experts(config: ConfigReader, experts: int, per_token: int) -> dict[str, Any]:
    return {
        **read_losses(config),
        "num_experts": config.integer("num_experts", experts),
        "num_experts_per_tok": config.integer("num_experts_per_tok", per_token),
        "moe_intermediate_size": config.integer("moe_intermediate_size", 512),
        "shared_expert_intermediate_size": config.integer("shared_expert_intermediate_size", 512),
    }


def _read_next(config: ConfigReader) -> Qwen3NextSpec:
    return Qwen3NextSpec(
        **_common(config, 2),
        **_experts(config, 512, 10),
        norm_topk_prob=config.flag("norm_topk_prob", True),
        decoder_sparse_step=config.integer("decoder_sparse_step", 1),
        mlp_only_layers=read_dense_layers(config),
        fused_projections=True,
    )


def _read_35(config: ConfigReader) -> Qwen3NextSpec:
    config.integer("intermediate_size")
    return Qwen3NextSpec(**_common(config, 4), num_experts=0)


def _read_35_moe(config: ConfigReader) -> Qwen3NextSpec:
    return Qwen3NextSpec(**_common(config, 2), **_experts(config, 256, 8))


def _write(spec: Qwen3NextSpec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    written = write_decoder(spec, positions)
    entries: dict[str, Any] = {
        **written,
        "rope_parameters": {**written["rope_parameters"], "partial_rotary_factor": spec.partial_rotary_factor},
        "partial_rotary_factor": spec.partial_rotary_factor,
        "hidden_act": spec.hidden_act,
        "attention_bias": spec.attention_bias,
        "linear_num_key_heads": spec.linear_num_key_heads,
        "linear_num_value_heads": spec.linear_num_value_heads,
        "linear_key_head_dim": spec.linear_key_head_dim,
        "linear_value_head_dim": spec.linear_value_head_dim,
        "linear_conv_kernel_dim": spec.linear_conv_kernel_dim,
        "layer_types": list(spec.mixers),
    }
    if spec.num_experts or spec.fused_projections:
        entries |= {
            "num_experts": spec.num_experts,
            "num_experts_per_tok": spec.num_experts_per_tok,
            "moe_intermediate_size": spec.moe_intermediate_size,
            "shared_expert_intermediate_size": spec.shared_expert_intermediate_size,
            "router_aux_loss_coef": spec.router_aux_loss_coef,
            "output_router_logits": False,
            "norm_topk_prob": spec.norm_topk_prob,
            "decoder_sparse_step": spec.decoder_sparse_step,
            "mlp_only_layers": spec.mlp_only_layers,
        }
    return entries


def _is_dense(spec: Qwen3NextSpec) -> bool:
    return not spec.num_experts and not spec.fused_projections


def _is_sparse(spec: Qwen3NextSpec) -> bool:
    return all(spec.experts().with_experts) and spec.norm_topk_prob and not spec.fused_projections


QWEN35 = Family(
    Qwen3NextSpec,
    "qwen3_5_text",
    ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    lambda spec: _tensors(spec, _in_order),
    _read_35,
    _write,
    covers=_is_dense,
)
QWEN35_MOE = Family(
    Qwen3NextSpec,
    "qwen3_5_moe_text",
    ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    lambda spec: _tensors(spec, _in_order),
    _read_35_moe,
    _write,
    covers=_is_sparse,
    fused=lambda spec: _tensors(spec, _in_order, _fused),
)
QWEN3_NEXT = Family(Qwen3NextSpec, "qwen3_next", ("Qwen3NextForCausalLM",), lambda spec: _tensors(spec, _by_head), _read_next, _write)
"""Also for all models of the section that Qwen 3.5 does not have."""
