"""What a causal language model is to the rest of the trainer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import POSITION
from halcyon.models.parts.linear import contract


class Inputs(NamedTuple):
    """What a model reads; integers (..., position)."""

    tokens: NamedArray
    positions: NamedArray | None = None
    """The position of each token in its text. None: they count from 0 along the axis."""
    segments: NamedArray | None = None
    """A position sees only its own segment. None: one segment."""


class Outputs(NamedTuple):
    """What a model gives."""

    features: NamedArray
    """What the output head sees, after the last norm: (..., position, embed) in the compute type."""
    cache: Any = None
    """Keys and values for the tokens that follow; None for a model that keeps none."""
    aux: dict[str, jax.Array] = {}  # noqa: RUF012 - a NamedTuple's default, never changed
    """Further scalars by name, such as the load of experts; empty for dense models."""


class CausalLM(eqx.Module):
    """A decoder that gives logits of the next token at every position.

    Every leaf of the tree is a parameter; all else is static. A model can therefore be given to ``jax.jit``, ``jax.grad`` and a
    checkpoint as it is.
    """

    vocab: eqx.AbstractVar[Axis]
    """Tokens, padding of the vocabulary included."""
    max_position: eqx.AbstractVar[Axis]
    """Longest sequence."""

    embed: eqx.AbstractVar[Axis]
    """The residual stream."""

    @abstractmethod
    def __call__(self, inputs: Inputs, *, compute_dtype: jnp.dtype | type | str = jnp.float32) -> Outputs:
        """The features of every position.

        Args:
            inputs: What it reads.
            compute_dtype: Type of activations and matrix products.

        Raises:
            ValueError: The sequence is longer than `max_position`.
        """

    @property
    @abstractmethod
    def head(self) -> NamedArray:
        """The output head: vocab and embed, in any order. With tied embeddings, the token embedding."""

    def logits(self, features: NamedArray) -> NamedArray:
        """Logits of the next token at every position: (..., position, vocab), float32.

        Training never wants them as a whole: see `halcyon.models.log_probs`.
        """
        return hax.auto_sharded(contract(features, self.head, self.embed, into=jnp.float32))

    def _position_axis(self, tokens: NamedArray) -> Axis:
        position = tokens.resolve_axis(POSITION)
        if position.size > self.max_position.size:
            raise ValueError(f"a sequence of {position.size} tokens is longer than the model's {self.max_position.size} positions")
        return position
