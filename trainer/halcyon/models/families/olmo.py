"""OLMo 2 and 3 (OLMo Team 2025a, 2025b): norms after each part instead of before, and norms of queries and keys over
all heads together.

OLMo 3 adds three windowed layers for each full one. A scaling of positions changes only its full layers.
"""

import functools

from halcyon.models.design import Design
from halcyon.models.families.family import decoder_family, design_of
from halcyon.models.parts.rotary import Rope
from halcyon.models.published import ConfigReader, DecoderConfig, PublishedModel, decoder_tensors
from halcyon.models.published.rope import read_windowed_theta
from halcyon.models.published.tensors import AFTER
from halcyon_api.spec.families.olmo import Olmo2Spec, Olmo3Spec


def design(spec: Olmo2Spec | Olmo3Spec) -> Design:
    """What the decoder is made of."""
    windowed = Rope(spec.rope_local_base_freq or spec.rope_theta) if isinstance(spec, Olmo3Spec) else None
    return design_of(spec, windowed=windowed, scaling="wide", placement="after")


_THETA = 500_000.0
"""The base of the class of OLMo 3 in transformers."""
_DEFAULTS = {"rms_norm_eps": 1e-5, "hidden_act": "silu", "attention_bias": False}
_TENSORS = functools.partial(decoder_tensors, norms=AFTER)
_OLMO2 = DecoderConfig(Olmo2Spec, _DEFAULTS)
_OLMO3 = DecoderConfig(
    Olmo3Spec, {**_DEFAULTS, "rope_theta": _THETA, "sliding_window": 4096, "layer_types": None}, by_layer=True
)


def _read_olmo3(config: ConfigReader) -> Olmo3Spec:
    fields = _OLMO3.fields(config)
    # Version 5 of transformers takes a base of the former form for full layers only. Its files have none.
    windowed = read_windowed_theta(config, None, _THETA if config.has("rope_parameters") else fields["rope_theta"])
    return Olmo3Spec(**fields, rope_local_base_freq=None if windowed == fields["rope_theta"] else windowed)


OLMO2 = decoder_family(
    Olmo2Spec, design, PublishedModel("olmo2", ("Olmo2ForCausalLM",), _TENSORS, _OLMO2.read, _OLMO2.write)
)
OLMO3 = decoder_family(
    Olmo3Spec, design, PublishedModel("olmo3", ("Olmo3ForCausalLM",), _TENSORS, _read_olmo3, _OLMO3.write)
)
