"""OLMo 2 and 3 (OLMo Team 2025a, 2025b): norms after each part instead of before, and norms of queries and keys over all heads together.

OLMo 3 adds three windowed layers for each full one. A scaling of positions changes only its full layers.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.decoder import Decoder
from halcyon.models.design import Design
from halcyon.models.families.designs import design_of
from halcyon.models.parts.rotary import Rope
from halcyon_api.spec.families.olmo import Olmo2Spec, Olmo3Spec


class Olmo2(Decoder):
    """An OLMo 2 decoder."""

    @staticmethod
    def init(spec: Olmo2Spec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Olmo2:
        """Random parameters; see `Decoder.of`."""
        return Olmo2.of(_post_normed(design_of(spec, spec.hidden_act)), vocab, max_position, dtype, key=key)


class Olmo3(Decoder):
    """An OLMo 3 decoder."""

    @staticmethod
    def init(spec: Olmo3Spec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Olmo3:
        """Random parameters; see `Decoder.of`."""
        windowed = Rope(spec.rope_local_base_freq or spec.rope_theta)
        design = _post_normed(design_of(spec, spec.hidden_act, windowed=windowed))
        return Olmo3.of(design, vocab, max_position, dtype, key=key)


def _post_normed(design: Design) -> Design:
    return dataclasses.replace(design, scaling="wide", placement="after")
