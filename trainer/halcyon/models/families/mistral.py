"""Mistral (Jiang et al. 2023): a Llama whose attention may see only a window."""

from __future__ import annotations

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.decoder import Decoder
from halcyon.models.families.designs import design_of
from halcyon_api.spec.families.mistral import MistralSpec


class Mistral(Decoder):
    """A Mistral decoder."""

    @staticmethod
    def init(spec: MistralSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Mistral:
        """Random parameters; see `Decoder.of`."""
        return Mistral.of(design_of(spec, spec.hidden_act), vocab, max_position, dtype, key=key)
