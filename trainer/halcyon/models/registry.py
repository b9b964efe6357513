"""Finds what the trainer knows of a model family; the model of ``spec.model``, and its operations."""

import dataclasses
from importlib import import_module
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models import families
from halcyon.models.axes import LABELS, POSITION, VOCAB
from halcyon.models.families.family import Family
from halcyon.models.model import CausalLM, with_tokens
from halcyon.models.parts.linear import Linear, Role
from halcyon_api.spec.families.custom import CustomSpec
from halcyon_api.spec.families.section import ModelSection
from halcyon_api.spec.model import FAMILIES

_SCORE = 0x5C0
"""Number of the key of a head of classes."""


def family_of(family: str) -> Family:
    """What the trainer knows of a family of ``spec.model``.

    It imports the file of this family alone, because a run needs no other one: that with the name of the file in the
    contract.

    Raises:
        ValueError: There is no such family.
    """
    section = FAMILIES.get(family)
    if section is None:
        raise ValueError(f"there is no model family {family}")
    module = import_module(f"{families.__name__}.{section.__module__.rpartition('.')[2]}")
    return next(found for found in vars(module).values() if isinstance(found, Family) and found.section is section)


def build_model(
    spec: ModelSection,
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
    model = family_of(spec.family).init(spec, vocab, max_position, jnp.dtype(dtype), key=key)
    if spec.classes:
        made: Any = model
        score = Linear.init(
            (model.embed,),
            (hax.Axis(LABELS, len(spec.classes)),),
            std=0.02,
            dtype=jnp.dtype(dtype),
            bias=spec.encoder,
            role=Role.HEAD,
            key=jax.random.fold_in(key, _SCORE),
        )
        model = dataclasses.replace(made, score=score, pooling=getattr(spec, "classifier_pooling", "last"))
    return with_tokens(model, vocab.size if tokens is None else tokens)


def flops_per_token(spec: ModelSection, sequence_length: int, vocab_size: int, *, frozen: bool = False) -> int:
    """Operations, forward and backward, for each token of a training step, as `ModelShape.flops_per_token` counts them.

    A custom model counts them itself (`CausalLM.flops_per_token`), from its shapes.

    Args:
        spec: ``spec.model`` of the run.
        sequence_length: Tokens of a sequence.
        vocab_size: Size of the vocabulary axis of the output head.
        frozen: Whether the weights are frozen beside an adapter. A custom model does not count that.
    """
    if isinstance(spec, CustomSpec):
        vocab, positions = hax.Axis(VOCAB, vocab_size), hax.Axis(POSITION, sequence_length)
        shapes = jax.eval_shape(lambda: build_model(spec, vocab, positions, key=jax.random.key(0)))
        return shapes.flops_per_token(sequence_length)
    return spec.shape(vocab_size, sequence_length).flops_per_token(sequence_length, frozen=frozen)
