"""The output head of every decoder: its token embedding, or a linear map of its own.

Each decoder declares both parts itself, before and after its blocks, because the order of the fields is the order of the leaves: sums over
all leaves, such as the norm of the gradient, are added in that order.
"""

# Without `from __future__ import annotations`: Equinox takes an abstract variable whose annotation is a text for a field.

import equinox as eqx
from haliax import Axis, NamedArray

from halcyon.models.model import CausalLM
from halcyon.models.parts.embedding import Embedding
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
    def head(self) -> NamedArray:
        """(vocab, embed) if tied, else (embed, vocab)."""
        return self.embedding.weight if self.untied_head is None else self.untied_head.weight
