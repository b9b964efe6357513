"""Builds the model of ``spec.model``."""

from __future__ import annotations

from importlib import import_module

import haliax as hax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models.custom import custom_model
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

    Call it inside ``jax.jit`` with ``out_shardings`` (see `halcyon.parallel.axes.shardings`), so that each device holds only its part, or
    inside ``jax.eval_shape`` if shapes are enough.

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
    return with_tokens(_init(spec, vocab, max_position, jnp.dtype(dtype), key), vocab.size if tokens is None else tokens)


def _init(spec: ModelSpec, vocab: hax.Axis, max_position: hax.Axis, dtype: jnp.dtype, key: PRNGKeyArray) -> CausalLM:
    if spec.custom is not None:
        return custom_model(spec.custom).init(vocab, max_position, dtype, key=key)
    family = import_module(f"halcyon.models.families.{FAMILIES[spec.kind][0]}")
    return getattr(family, FAMILIES[spec.kind][1]).init(spec.value, vocab, max_position, dtype, key=key)


FAMILIES = {
    "llama": ("llama", "Llama"),
    "gpt2": ("gpt2", "Gpt2"),
    "qwen2": ("qwen", "Qwen2"),
    "qwen3": ("qwen", "Qwen3"),
    "mistral": ("mistral", "Mistral"),
    "gemma": ("gemma", "Gemma"),
    "gemma2": ("gemma", "Gemma2"),
    "gemma3": ("gemma", "Gemma3"),
    "olmo2": ("olmo", "Olmo2"),
    "olmo3": ("olmo", "Olmo3"),
    "mixtral": ("mixtral", "Mixtral"),
    "qwen3Moe": ("qwen_moe", "Qwen3Moe"),
    "gptOss": ("gpt_oss", "GptOss"),
    "deepseekV3": ("deepseek", "DeepseekV3"),
    "glm4Moe": ("deepseek", "Glm4Moe"),
    "qwen3Next": ("qwen_next", "Qwen3Next"),
    "apertus": ("apertus", "Apertus"),
    "nanochat": ("nanochat", "Nanochat"),
}
"""The module and the class of each family, by the name of its section. Only the module of the run's family is imported."""
