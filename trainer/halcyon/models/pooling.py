"""Texts as one vector each."""

from typing import Literal

import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.axes import BATCH, EMBED, POSITION

Pooling = Literal["mean", "last", "cls"]
"""The features that the vector of a text is made of: their mean over its positions, or those of its last or first
position."""
PART = "part"
"""The texts of a row."""


def pooled(features: NamedArray, members: jax.Array, pooling: Pooling) -> NamedArray:
    """The vectors of texts: (batch, part, embed), float32; zero for a text without a position.

    Args:
        features: (batch, position, embed).
        members: Whether a position belongs to a text: bool [batch, part, position].
        pooling: What the vector is made of.
    """
    if pooling != "mean":
        place = jnp.cumsum(members, -1)
        members = members & (place == (1 if pooling == "cls" else place[..., -1:]))
    weights = members / jnp.maximum(jnp.sum(members, -1, keepdims=True), 1)
    array = features.rearrange((BATCH, POSITION, EMBED)).array.astype(jnp.float32)
    product = jnp.einsum("bnp,bpe->bne", weights, array, precision=jax.lax.Precision.HIGHEST)
    return NamedArray(product, (BATCH, PART, EMBED))
