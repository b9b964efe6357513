"""Apertus (Hernandez-Cano et al. 2025): a Llama with norms of queries and keys, and an MLP without a gate, with xIELU."""

from __future__ import annotations

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.decoder import Decoder
from halcyon.models.families.designs import design_of
from halcyon_api.spec.families.apertus import ApertusSpec


class Apertus(Decoder):
    """An Apertus decoder."""

    @staticmethod
    def init(spec: ApertusSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Apertus:
        """Random parameters; see `Decoder.of`."""
        return Apertus.of(design_of(spec, spec.hidden_act), vocab, max_position, dtype, key=key)
