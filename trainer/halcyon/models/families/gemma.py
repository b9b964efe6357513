"""Gemma 1, 2 and 3 (Gemma Team 2024a, 2024b, 2025): norms with a factor of 1 + weight, embeddings times sqrt(width), GeGLU.

Gemma 2 adds norms after each part, soft caps, and a window in every other layer. Gemma 3 has norms of queries and keys in place of the
soft cap of the scores, and its windowed layers have a rotation of their own.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from haliax import Axis
from jaxtyping import PRNGKeyArray

from halcyon.models.decoder import Decoder
from halcyon.models.design import Design
from halcyon.models.families.designs import design_of
from halcyon.models.parts.rotary import Rope
from halcyon_api.spec.families.gemma import Gemma2Spec, Gemma3Spec, GemmaSpec


class Gemma(Decoder):
    """A Gemma decoder."""

    @staticmethod
    def init(spec: GemmaSpec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Gemma:
        """Random parameters; see `Decoder.of`."""
        return Gemma.of(_scaled(design_of(spec, spec.hidden_act)), vocab, max_position, dtype, key=key)


class Gemma2(Decoder):
    """A Gemma 2 decoder."""

    @staticmethod
    def init(spec: Gemma2Spec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Gemma2:
        """Random parameters; see `Decoder.of`."""
        design = dataclasses.replace(
            _sandwiched(design_of(spec, spec.hidden_activation), spec.query_pre_attn_scalar),
            score_cap=spec.attn_logit_softcapping or None,
            logit_cap=spec.final_logit_softcapping or None,
        )
        return Gemma2.of(design, vocab, max_position, dtype, key=key)


class Gemma3(Decoder):
    """A Gemma 3 text decoder."""

    @staticmethod
    def init(spec: Gemma3Spec, vocab: Axis, max_position: Axis, dtype: jnp.dtype, *, key: PRNGKeyArray) -> Gemma3:
        """Random parameters; see `Decoder.of`."""
        plain = design_of(spec, spec.hidden_activation, windowed=Rope(spec.rope_local_base_freq))
        design = dataclasses.replace(_sandwiched(plain, spec.query_pre_attn_scalar), logit_cap=spec.final_logit_softcapping or None)
        return Gemma3.of(design, vocab, max_position, dtype, key=key)


def _scaled(design: Design) -> Design:
    return dataclasses.replace(design, scaling="offset", embedding_scale=math.sqrt(design.sizes.width))


def _sandwiched(design: Design, query_scalar: float | None) -> Design:
    scale = None if query_scalar is None else query_scalar**-0.5
    return dataclasses.replace(_scaled(design), placement="both", score_scale=scale)
