"""Builds the model of ``spec.model``."""

from __future__ import annotations

import haliax as hax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models.families.table import family_of
from halcyon.models.model import CausalLM
from halcyon.models.softmax import with_tokens
from halcyon_api.spec.model import ModelSpec


def build_model(
    spec: ModelSpec,
    vocab: hax.Axis,
    max_position: hax.Axis,
    *,
    tokens: int | None = None,
    dtype: DTypeLike = jnp.float32,
    key: PRNGKeyArray,
) -> CausalLM:
    """A model with random parameters: a pure function of `key`, the same on every mesh and for any number of processes.

    Call it inside ``jax.jit`` with ``out_shardings`` (see `halcyon.parallel.axes.shardings`), so that each device holds
    only its part, or inside ``jax.eval_shape`` if shapes are enough.

    Args:
        spec: ``spec.model`` of the run.
        vocab: Tokens, including the padding of the vocabulary. Named ``vocab``.
        max_position: Positions of the longest sequence. Learned positions have this size; other models only check it.
        tokens: Tokens of the vocabulary without its padding (`CausalLM.tokens`). None: it has no padding.
        dtype: Type of the parameters.
        key: Random key.

    Raises:
        BadConfiguration: A custom model does not import, or does not take its configuration.
    """
    model = family_of(spec.kind).build(spec.value, vocab, max_position, jnp.dtype(dtype), key=key)
    return with_tokens(model, vocab.size if tokens is None else tokens)
