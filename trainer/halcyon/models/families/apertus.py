"""Apertus (Hernandez-Cano et al. 2025): a Llama with norms of queries and keys, and an MLP without a gate, with xIELU."""

from __future__ import annotations

import dataclasses

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
        if spec.hidden_act == "xielu":
            design = dataclasses.replace(design_of(spec, "silu"), learned_activation=True)
        else:
            design = design_of(spec, spec.hidden_act)
        return Apertus.of(design, vocab, max_position, dtype, key=key)
