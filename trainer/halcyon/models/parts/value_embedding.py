"""Value embeddings: a table of vectors that a block adds to the values of its attention, each head as much as its gate
says.

They come from the value residuals of ResFormer (Zhou et al. 2024, `arXiv 2410.17897
<https://arxiv.org/abs/2410.17897>`_). Here every such block has a table of its own, in the place of the values of the
first block.
"""

from __future__ import annotations

import equinox as eqx
import jax
from haliax import Axis, NamedArray

from halcyon.models.axes import EMBED, VALUE_GATE
from halcyon.models.elementwise import elementwise, recomputed
from halcyon.models.partition import divided
from halcyon.models.parts.embedding import Embedding
from halcyon.models.parts.linear import Linear

GREATEST = 3.0
"""The greatest factor of a value embedding; a gate of 0 gives half of it."""


class ValueEmbedding(eqx.Module):
    """``3 sigmoid(gate . x[:channels])`` for each head of values, times the vector of the token.

    Attributes:
        table: A vector for each token. Its features are those of all heads, under the name ``embed``, so that a mesh
            splits the table as it splits the token embedding.
        gate: From the first features of the residual stream to the heads of values.
        head_size: Features of a head.
    """

    table: Embedding
    gate: Linear
    head_size: Axis = eqx.field(static=True)

    def __call__(self, tokens: NamedArray, x: NamedArray) -> NamedArray:
        """What to add to the values: (..., position, kv_heads, head_size), in the type of `x`.

        Args:
            tokens: (..., position) integers.
            x: (..., position, embed): the residual stream, after its norm.
        """
        (channels,) = self.gate.inputs
        gate = self.gate(x.slice(EMBED, channels))
        (heads,) = (axis for axis in self.gate.weight.axes if axis.name != VALUE_GATE)
        vectors = divided(self.table(tokens, x.dtype).unflatten_axis(EMBED, (heads, self.head_size)))
        return elementwise(recomputed(lambda vectors, gate: GREATEST * jax.nn.sigmoid(gate) * vectors), vectors, gate)
