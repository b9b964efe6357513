"""What a causal language model is to the rest of the trainer."""

from __future__ import annotations

from abc import abstractmethod

import equinox as eqx
import haliax as hax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.parts.linear import contract
from halcyon.parallel.axes import POSITION


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
    def features(self, tokens: NamedArray, *, segment_ids: NamedArray | None = None, compute_dtype: jnp.dtype) -> NamedArray:
        """What the output head sees: (..., position, embed) in `compute_dtype`, after the last norm.

        Args:
            tokens: (..., position) integers.
            segment_ids: (..., position) integers; a position sees only its own segment. None: one segment.
            compute_dtype: Type of activations and matrix products.
        """

    @property
    @abstractmethod
    def head(self) -> NamedArray:
        """The output head: vocab and embed, in any order. With tied embeddings, the token embedding."""

    def __call__(
        self, tokens: NamedArray, *, segment_ids: NamedArray | None = None, compute_dtype: jnp.dtype | type = jnp.float32
    ) -> NamedArray:
        """Logits of the next token at every position: (..., position, vocab), float32.

        Training never wants them as a whole: see `halcyon.models.log_probs`.
        """
        features = self.features(tokens, segment_ids=segment_ids, compute_dtype=jnp.dtype(compute_dtype))
        return hax.auto_sharded(contract(features, self.head, self.embed, into=jnp.float32))

    def _position_axis(self, tokens: NamedArray) -> Axis:
        position = tokens.resolve_axis(POSITION)
        if position.size > self.max_position.size:
            raise ValueError(f"a sequence of {position.size} tokens is longer than the model's {self.max_position.size} positions")
        return position
