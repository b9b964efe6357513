"""Mixtral in the form of Hugging Face (``MixtralForCausalLM``)."""

from __future__ import annotations

from typing import Any

from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import read_activation, read_decoder, read_window, write_decoder
from halcyon.models.weights.expert_decoder import expert_decoder_tensors, read_losses
from halcyon.models.weights.family import Family
from halcyon.models.weights.tensors import Tensors
from halcyon_api.spec.families.mixtral import MixtralSpec

_NAMES = {"gate": "w1", "up": "w3", "down": "w2"}


def _tensors(spec: MixtralSpec) -> Tensors:
    return expert_decoder_tensors(spec, lambda layers: layers.experts("block_sparse_moe.gate", "block_sparse_moe.experts", _NAMES))


def _read(config: ConfigReader) -> MixtralSpec:
    return MixtralSpec(
        **read_decoder(config, theta=1_000_000.0, epsilon=1e-5, key_value_heads=8),
        **read_losses(config),
        hidden_act=read_activation(config, "hidden_act", "silu"),
        sliding_window=read_window(config),
        num_local_experts=config.integer("num_local_experts", 8),
        num_experts_per_tok=config.integer("num_experts_per_tok", 2),
    )


def _write(spec: MixtralSpec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    return {
        **write_decoder(spec, positions),
        "hidden_act": spec.hidden_act,
        "sliding_window": spec.sliding_window,
        "num_local_experts": spec.num_local_experts,
        "num_experts_per_tok": spec.num_experts_per_tok,
        "router_aux_loss_coef": spec.router_aux_loss_coef,
        "router_jitter_noise": 0.0,
        "output_router_logits": False,
    }


MIXTRAL = Family(MixtralSpec, "mixtral", ("MixtralForCausalLM",), _tensors, _read, _write)
