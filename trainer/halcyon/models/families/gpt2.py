"""GPT-2 (Radford et al. 2019): LayerNorm before each part, learned positions, biases everywhere, GELU, tied embeddings.

``scaleAttnByInverseLayerIdx`` is the option of Mistral-GPT2 (Karamcheti et al. 2021): deeper layers have smaller
scores.
"""

import functools
from collections.abc import Mapping
from typing import Any

from halcyon.models import axes
from halcyon.models.design import BlockKind, Design
from halcyon.models.families.family import decoder_family
from halcyon.models.published import ConfigReader, PublishedModel, Tensor, Tensors
from halcyon.models.published.decoder_config import REQUIRED, read_keys, write_keys
from halcyon.models.published.tensors import Join, piece, tensor, with_bias
from halcyon_api.spec.families.gpt2 import Gpt2Section, Gpt2Spec, LearnedPositionsSection


def learned_positions_design(spec: LearnedPositionsSection, **other: Any) -> Design:
    """What the decoders of this and of similar families are made of; `other` are further fields of `Design`."""
    return Design(
        sizes=spec.sizes(),
        kinds=(BlockKind(None),) * spec.num_hidden_layers,
        epsilon=spec.layer_norm_epsilon,
        std=spec.initializer_range,
        # Smaller with more layers: the variance of the residual stream does not grow (section 2.3 of the paper).
        std_into_stream=spec.initializer_range / (2 * spec.num_hidden_layers) ** 0.5,
        activation=spec.hidden_act,
        layer_norms=True,
        grouped=False,
        **other,
    )


def design(spec: Gpt2Section) -> Design:
    """What the decoder is made of."""
    return learned_positions_design(
        spec,
        score_scale=None if spec.scale_attn_weights else 1.0,
        by_layer=spec.scale_attn_by_inverse_layer_idx,
    )


def tensors(spec: Gpt2Spec) -> Tensors:
    """The tensors of ``GPT2LMHeadModel``."""
    head = [] if spec.tie_word_embeddings else [tensor("lm_head.weight", "untied_head.weight", axes.VOCAB, axes.EMBED)]
    return Tensors(
        (*trunk_tensors("transformer"), *head),
        ignored=(
            r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",
            *((r"lm_head\.weight",) if spec.tie_word_embeddings else ()),
        ),
        other_names=((r"(?=(h|wte|wpe|ln_f)\.)", "transformer."),),  # the published files have no prefix
    )


inputs_first = functools.partial(with_bias, outputs=-1)
"""The weight [inputs, outputs] and the bias of a map, or those of a norm."""


def trunk_tensors(name: str) -> list[Tensor]:
    """The tensors of a GPT-2 below `name`. Its matrices are [in, out], and queries, keys and values share one
    tensor."""
    layer, block, heads = f"{name}.h.{{layers}}", "blocks.stacked", (axes.HEADS, axes.HEAD_SIZE)
    fused = [f"{block}.attention.{part}" for part in ("query", "key", "value")]
    return [
        tensor(f"{name}.wte.weight", "embedding.weight", axes.VOCAB, axes.EMBED),
        tensor(f"{name}.wpe.weight", "positions.weight", axes.POSITION, axes.EMBED),
        *inputs_first(f"{name}.ln_f", "norm", axes.EMBED),
        *inputs_first(f"{layer}.ln_1", f"{block}.attention_norm", axes.EMBED),
        Tensor(
            f"{layer}.attn.c_attn.weight",
            tuple(piece(f"{path}.weight", axes.EMBED, heads) for path in fused),
            Join(1),
        ),
        Tensor(f"{layer}.attn.c_attn.bias", tuple(piece(f"{path}.bias", heads) for path in fused), Join(0)),
        *inputs_first(f"{layer}.attn.c_proj", f"{block}.attention.output", heads, axes.EMBED),
        *inputs_first(f"{layer}.ln_2", f"{block}.mlp_norm", axes.EMBED),
        *inputs_first(f"{layer}.mlp.c_fc", f"{block}.mlp.up", axes.EMBED, axes.MLP),
        *inputs_first(f"{layer}.mlp.c_proj", f"{block}.mlp.down", axes.MLP, axes.EMBED),
    ]


DEFAULTS = {
    "n_layer": REQUIRED,
    "n_embd": REQUIRED,
    "n_head": REQUIRED,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}
_NAMES = {
    "n_layer": "num_hidden_layers",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "activation_function": "hidden_act",
}
_CONSTANTS = {"reorder_and_upcast_attn": False, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def read_fields(config: ConfigReader, defaults: Mapping[str, Any] = DEFAULTS) -> dict[str, Any]:
    """The fields of a section of a family with these keys; see `read_keys`."""
    config.only("add_cross_attention", False)
    fields = read_keys(config, defaults, _NAMES)
    return {**fields, "intermediate_size": config.integer("n_inner", 4 * fields["hidden_size"])}


def write(spec: Gpt2Section, positions: int, defaults: Mapping[str, Any] = DEFAULTS) -> dict[str, Any]:
    """The entries of config.json of a family with these keys."""
    sizes = {"n_inner": spec.mlp_size, "n_positions": positions, "n_ctx": positions}
    return {**write_keys(spec, defaults, _NAMES), **sizes, **_CONSTANTS}


def _read(config: ConfigReader) -> Gpt2Spec:
    return Gpt2Spec(**read_fields(config))


_FORM = PublishedModel("gpt2", ("GPT2LMHeadModel",), tensors, _read, write, positions="n_positions")
GPT2 = decoder_family(Gpt2Spec, design, _FORM)
