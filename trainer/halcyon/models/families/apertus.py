"""Apertus (Hernandez-Cano et al. 2025): a Llama with norms of queries and keys, and an MLP without a gate, with
xIELU.
"""

from halcyon.models.design import Design
from halcyon.models.families.family import decoder_family, design_of
from halcyon.models.parts.mlp import BETA, EPSILON
from halcyon.models.published import ConfigReader, DecoderConfig, Layers, PublishedModel, Tensors, decoder_tensors
from halcyon.models.published.tensors import Constant, Tensor
from halcyon_api.spec.families.apertus import ApertusSpec

_NORMS = {"attention_layernorm": "attention_norm", "feedforward_layernorm": "mlp_norm"}
_LEARNED = {"alpha_p": "positive", "alpha_n": "negative"}
_CONSTANTS = {"beta": BETA, "eps": EPSILON}
"""Buffers of the activation function. transformers takes them from the files and gives absent ones no value."""


def design(spec: ApertusSpec) -> Design:
    """What the decoder is made of."""
    if spec.hidden_act == "xielu":
        return design_of(spec, "silu", learned_activation=True)
    return design_of(spec)


def tensors(spec: ApertusSpec) -> Tensors:
    """The tensors of ``ApertusForCausalLM``."""
    if spec.hidden_act != "xielu":
        return decoder_tensors(spec, _NORMS)
    layers = range(spec.num_hidden_layers + (spec.num_nextn_predict_layers or 0))

    def learned(of: Layers) -> list[Tensor]:
        return [of.tensor(f"mlp.act_fn.{name}", f"mlp.learned.{ours}", ()) for name, ours in _LEARNED.items()]

    constants = (
        Constant(f"model.layers.{{layers}}.mlp.act_fn.{name}", value, layers) for name, value in _CONSTANTS.items()
    )
    return decoder_tensors(spec, _NORMS, learned, constants=tuple(constants))


_CONFIG = DecoderConfig(
    ApertusSpec,
    {"rope_theta": 12_000_000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu", "attention_bias": False},
    constants={"mlp_bias": False},
    rope={
        "rope_theta": 12_000_000.0,
        "rope_type": "llama3",
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
)


def _read(config: ConfigReader) -> ApertusSpec:
    if config.text("hidden_act", "xielu") != "xielu":
        return _CONFIG.read(config)
    return _CONFIG.read(ConfigReader({**config.document, "hidden_act": None}, config.where), hidden_act="xielu")


APERTUS = decoder_family(
    ApertusSpec, design, PublishedModel("apertus", ("ApertusForCausalLM",), tensors, _read, _CONFIG.write, classes="")
)
