"""The output head of every decoder: its token embedding, or a linear map of its own.

Each decoder declares both parts itself, before and after its blocks, because the order of the fields is the order of
the leaves: sums over all leaves, such as the norm of the gradient, are added in that order.
"""

# Without `from __future__ import annotations`: Equinox takes an abstract variable whose annotation is a text for a
# field.

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jax.typing import DTypeLike

from halcyon.models.cache import Cache, FixedState, PositionState
from halcyon.models.model import CausalLM, Inputs, Outputs
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.int8 import Int8Embedding, Int8Linear, int8_product
from halcyon.models.parts.linear import Linear


class TokenDecoder(CausalLM):
    """A decoder whose output head is its token embedding, or a linear map."""

    embedding: eqx.AbstractVar[Embedding]
    untied_head: eqx.AbstractVar[Linear | None]
    """None: the head is the token embedding."""
    vocab: Axis = eqx.field(static=True)
    max_position: Axis = eqx.field(static=True)
    embed: Axis = eqx.field(static=True)

    @property
    @abstractmethod
    def kept(self) -> tuple[PositionState | FixedState, ...]:
        """What each layer keeps in a cache, in order."""

    @abstractmethod
    def __call__(
        self, inputs: Inputs, *, cache: Cache | None = None, compute_dtype: DTypeLike = jnp.float32
    ) -> Outputs:
        """See `CausalLM.__call__`.

        With a cache, `inputs` are the next tokens of each row, and `Outputs.cache` is the cache after them.
        """

    def new_cache(self, rows: int, length: int, dtype: DTypeLike, *, pages: int | None = None) -> Cache:
        """An empty cache for this model; see `Cache.of`.

        Raises:
            ValueError: The rows are longer than `max_position`.
        """
        if length > self.max_position.size:
            raise ValueError(
                f"a cache of {length} tokens is longer than the model's {self.max_position.size} positions"
            )
        return Cache.of(self.kept, rows, length, dtype, pages=pages)

    def _head_products(self, features: NamedArray) -> NamedArray:
        """See `CausalLM._head_products`. A head in 8 bits is never converted as a whole."""
        head: Any = self.embedding if self.untied_head is None else self.untied_head
        if not isinstance(head, Int8Linear | Int8Embedding):
            return super()._head_products(features)
        return int8_product(features, head.rows, head.scale, (self.embed,), integers=head.integers)

    @property
    def head(self) -> NamedArray:
        """(vocab, embed) if tied, else (embed, vocab)."""
        return self.embedding.weight if self.untied_head is None else self.untied_head.weight
