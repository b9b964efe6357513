"""Apertus in the form of Hugging Face (``ApertusForCausalLM``)."""

from __future__ import annotations

import dataclasses
from typing import Any

from halcyon.models.parts.plain_mlp import BETA, EPSILON
from halcyon.models.weights.config import ConfigReader
from halcyon.models.weights.decoder import decoder_tensors, read_activation, read_decoder, write_decoder
from halcyon.models.weights.family import Family
from halcyon.models.weights.rope import with_default_rope
from halcyon.models.weights.tensors import Constant, Tensors, tensor
from halcyon_api.spec.families.apertus import ApertusSpec

_NORMS = {"attention_layernorm": "attention_norm", "feedforward_layernorm": "mlp_norm"}
_LEARNED = {"alpha_p": "positive", "alpha_n": "negative"}
_CONSTANTS = {"beta": BETA, "eps": EPSILON}
"""Buffers of the activation function. transformers takes them from the files and gives absent ones no value."""
_PUBLISHED_ROPE = {
    "rope_theta": 12_000_000.0,
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
"""The rotary positions of a config.json that states none: the default of the class in transformers."""


def _tensors(spec: ApertusSpec) -> Tensors:
    learned = [
        tensor(f"model.layers.{{layers}}.mlp.act_fn.{name}", f"blocks.stacked.mlp.learned.{ours}", ()) for name, ours in _LEARNED.items()
    ]
    has_learned = spec.hidden_act == "xielu"
    layers = range(spec.num_hidden_layers)
    constants = tuple(Constant(f"model.layers.{{layers}}.mlp.act_fn.{name}", value, layers) for name, value in _CONSTANTS.items())
    found = decoder_tensors(spec.sizes(), _NORMS, further=tuple(learned) if has_learned else ())
    return dataclasses.replace(found, constants=constants) if has_learned else found


def _read(config: ConfigReader) -> ApertusSpec:
    config = with_default_rope(config, _PUBLISHED_ROPE)
    learned = config.text("hidden_act", "xielu") == "xielu"
    return ApertusSpec(
        **read_decoder(config, theta=12_000_000.0, epsilon=1e-5),
        hidden_act="xielu" if learned else read_activation(config, "hidden_act", "silu"),
        attention_bias=config.flag("attention_bias", False),
    )


def _write(spec: ApertusSpec, tokens: int, positions: int) -> dict[str, Any]:
    del tokens
    return {
        **write_decoder(spec, positions, always_scaling=True),
        "hidden_act": spec.hidden_act,
        "attention_bias": spec.attention_bias,
        "mlp_bias": False,
    }


APERTUS = Family(ApertusSpec, "apertus", ("ApertusForCausalLM",), _tensors, _read, _write)
