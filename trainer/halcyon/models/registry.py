"""Builds the model of ``spec.model``."""

from __future__ import annotations

import haliax as hax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from halcyon.models.model import CausalLM
from halcyon_api.spec.families.gpt2 import Gpt2Spec
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.model import ModelSpec


def build_model(
    spec: ModelSpec, vocab: hax.Axis, max_position: hax.Axis, *, dtype: jnp.dtype | type | str = jnp.float32, key: PRNGKeyArray
) -> CausalLM:
    """A model with random parameters: a pure function of `key`, the same on every mesh and for any number of processes.

    Call it inside ``jax.jit`` with ``out_shardings`` (see `halcyon.parallel.axes.shardings`), so that each device holds only its part, or
    inside ``jax.eval_shape`` if shapes are enough.

    Args:
        spec: ``spec.model`` of the run.
        vocab: Tokens, including the padding of the vocabulary. Named ``vocab``.
        max_position: Positions of the longest sequence. Learned positions have this size; other models only check it.
        dtype: Type of the parameters.
        key: Random key.
    """
    dtype = jnp.dtype(dtype)
    match spec.value:
        case LlamaSpec() as llama:
            from halcyon.models.families.llama import Llama

            return Llama.init(llama, vocab, max_position, dtype, key=key)
        case Gpt2Spec() as gpt2:
            from halcyon.models.families.gpt2 import Gpt2

            return Gpt2.init(gpt2, vocab, max_position, dtype, key=key)
        case other:
            raise TypeError(f"no model for a spec of type {type(other).__name__}")
