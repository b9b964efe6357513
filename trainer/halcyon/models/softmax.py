"""The softmax over the vocabulary: the limit of its logits, and the rows that only pad the vocabulary.

A model's vocabulary is that of its tokenizer, rounded up so that a mesh divides it. The rows beyond are no tokens.
Their logits are minus infinity, so they have no probability, and neither features nor head get a gradient from them.
Their parameters are zero before the first step and stay zero, whatever the update rule (`without_padding`). So a run
trains as it would without the padding.

`halcyon.models.CausalLM.tokens` is the one place that knows where the padding begins.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, TypeVar

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import VOCAB, is_named
from halcyon.models.elementwise import elementwise, with_array
from halcyon_api.spec.narrow_products import NarrowProducts

Model = TypeVar("Model")
Tree = TypeVar("Tree")


class Softmax(NamedTuple):
    """What turns the products of features and head into probabilities. All fields are static."""

    embed: Axis
    """The axis that a logit is summed over."""
    vocab: Axis
    """The axis of the softmax, with its padding."""
    soft_cap: float | None = None
    """Smooth limit of the logits: ``cap * tanh(logit / cap)`` (Gemma Team 2024). None: no limit."""
    tokens: int | None = None
    """Tokens of the vocabulary without its padding. None: it has none, and the mask costs nothing."""
    products: NarrowProducts | None = None
    """Types of the factors of the products of features and head, in a loss. None: that of the features."""

    def logits(self, products: NamedArray) -> NamedArray:
        """The logits (..., vocab) of products (..., vocab): limited, and minus infinity for the padding."""
        return self.masked(
            products if self.soft_cap is None else self.soft_cap * hax.tanh(products / self.soft_cap), self.vocab
        )

    def masked(self, logits: NamedArray, part: Axis, first: jax.Array | int = 0) -> NamedArray:
        """`logits` with minus infinity for the padding.

        Args:
            logits: (..., part).
            part: The vocabulary, or one device's part of it.
            first: Index of the part's first row in the vocabulary.
        """
        if self.tokens is None:
            return logits
        is_token: Any = hax.arange(part) + first < self.tokens
        return elementwise(lambda logits, is_token: jnp.where(is_token, logits, -jnp.inf), logits, is_token)


def with_tokens(model: Model, tokens: int) -> Model:
    """A copy of a model of this number of tokens; see `halcyon.models.CausalLM.tokens`.

    The arrays are the same ones.
    """
    changed: Any = copy.copy(model)
    object.__setattr__(
        changed, "tokens", tokens if tokens < changed.vocab.size else None
    )  # a user's class may have its own __init__
    return changed


def without_padding(tree: Tree, tokens: int | None) -> Tree:
    """`tree` with zeros in the rows of its arrays that pad the vocabulary.

    Args:
        tree: A tree of named arrays, such as a model or the updates of its parameters.
        tokens: See `Softmax.tokens`.
    """
    if tokens is None:
        return tree

    def one(leaf: Any) -> Any:
        if not is_named(leaf) or VOCAB not in leaf.axis_names:
            return leaf
        at = leaf.axis_names.index(VOCAB)
        rows = jax.lax.broadcasted_iota(jnp.int32, leaf.array.shape, at)
        return with_array(leaf, jnp.where(rows < tokens, leaf.array, jnp.zeros((), leaf.array.dtype)))

    return jax.tree.map(one, tree, is_leaf=is_named)
