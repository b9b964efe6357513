"""GPT-2 in the form of Hugging Face (``GPT2LMHeadModel``). Its matrices are [in, out], and queries, keys and values share one tensor."""

from __future__ import annotations

from typing import Any

from halcyon.models.axes import EMBED, HEAD_SIZE, HEADS, MLP, POSITION, VOCAB
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import read_activation
from halcyon.models.weights.family import Family
from halcyon.models.weights.tensors import Join, Tensor, Tensors, piece, tensor
from halcyon_api.spec.families.gpt2 import Gpt2Spec

_PROJECTIONS = ("query", "key", "value")


def _tensors(spec: Gpt2Spec) -> Tensors:
    head = [] if spec.tie_word_embeddings else [tensor("lm_head.weight", "untied_head.weight", VOCAB, EMBED)]
    layer, block, heads = "transformer.h.{layers}", "blocks.stacked", (HEADS, HEAD_SIZE)
    fused = [f"{block}.attention.{name}" for name in _PROJECTIONS]
    return Tensors(
        (
            tensor("transformer.wte.weight", "embedding.weight", VOCAB, EMBED),
            tensor("transformer.wpe.weight", "positions.weight", POSITION, EMBED),
            tensor("transformer.ln_f.weight", "norm.weight", EMBED),
            tensor("transformer.ln_f.bias", "norm.bias", EMBED),
            tensor(f"{layer}.ln_1.weight", f"{block}.attention_norm.weight", EMBED),
            tensor(f"{layer}.ln_1.bias", f"{block}.attention_norm.bias", EMBED),
            Tensor(f"{layer}.attn.c_attn.weight", tuple(piece(f"{path}.weight", EMBED, heads) for path in fused), Join(1)),
            Tensor(f"{layer}.attn.c_attn.bias", tuple(piece(f"{path}.bias", heads) for path in fused), Join(0)),
            tensor(f"{layer}.attn.c_proj.weight", f"{block}.attention.output.weight", heads, EMBED),
            tensor(f"{layer}.attn.c_proj.bias", f"{block}.attention.output.bias", EMBED),
            tensor(f"{layer}.ln_2.weight", f"{block}.mlp_norm.weight", EMBED),
            tensor(f"{layer}.ln_2.bias", f"{block}.mlp_norm.bias", EMBED),
            tensor(f"{layer}.mlp.c_fc.weight", f"{block}.mlp_up.weight", EMBED, MLP),
            tensor(f"{layer}.mlp.c_fc.bias", f"{block}.mlp_up.bias", MLP),
            tensor(f"{layer}.mlp.c_proj.weight", f"{block}.mlp_down.weight", MLP, EMBED),
            tensor(f"{layer}.mlp.c_proj.bias", f"{block}.mlp_down.bias", EMBED),
            *head,
        ),
        ignored=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)", *((r"lm_head\.weight",) if spec.tie_word_embeddings else ())),
        other_names=((r"(?=(h|wte|wpe|ln_f)\.)", "transformer."),),  # the published files have no prefix
    )


def _read(config: ConfigReader) -> Gpt2Spec:
    config.only("add_cross_attention", False)
    width = config.integer("n_embd")
    return Gpt2Spec(
        layers=config.integer("n_layer"),
        hidden_size=width,
        intermediate_size=config.integer("n_inner", 4 * width),
        heads=config.integer("n_head"),
        norm_epsilon=config.number("layer_norm_epsilon", 1e-5),
        activation_function=read_activation(config, "activation_function", "gelu_new"),
        scale_attn_weights=config.flag("scale_attn_weights", True),
        scale_attn_by_inverse_layer_idx=config.flag("scale_attn_by_inverse_layer_idx", False),
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
        initializer_std=config.number("initializer_range", 0.02),
    )


def _write(spec: Gpt2Spec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    return {
        "n_layer": spec.layers,
        "n_embd": spec.hidden_size,
        "n_inner": spec.mlp_size,
        "n_head": spec.heads,
        "n_positions": positions,
        "n_ctx": positions,
        "activation_function": spec.activation_function,
        "layer_norm_epsilon": spec.norm_epsilon,
        "initializer_range": spec.initializer_std,
        "scale_attn_weights": spec.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": spec.scale_attn_by_inverse_layer_idx,
        "reorder_and_upcast_attn": False,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": spec.tie_word_embeddings,
    }


GPT2 = Family(Gpt2Spec, "gpt2", ("GPT2LMHeadModel",), _tensors, _read, _write, positions="n_positions")
