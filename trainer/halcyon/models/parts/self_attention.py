"""Self-attention as a part of a block: projections, rotary positions, `attention`, the output projection."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
from haliax import Axis, NamedArray

from halcyon.models.axes import KEY_POSITION, POSITION
from halcyon.models.parts.attention import attention
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask
from halcyon.models.parts.rotary import RotaryTable, rotate

InitLinear = Callable[[tuple[Axis, ...], tuple[Axis, ...]], Linear]
"""Makes a linear map from its inputs and outputs."""


class SelfAttention(eqx.Module):
    """Multi-head self-attention; with grouped queries if keys and values have fewer heads (Ainslie et al. 2023)."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    head_size: Axis = eqx.field(static=True)

    @staticmethod
    def init(
        embed: Axis, key_heads: tuple[Axis, ...], queries: tuple[Axis, ...], head_size: Axis, linear: InitLinear, output: InitLinear
    ) -> SelfAttention:
        """Random projections.

        Args:
            embed: Features of the residual stream.
            key_heads: Heads of keys and values.
            queries: Query heads that share one head of keys and values; empty: one query head each.
            head_size: Features of a head.
            linear: Makes the projections of queries, keys and values.
            output: Makes the projection into the residual stream.
        """
        heads, shared = (*key_heads, *queries, head_size), (*key_heads, head_size)
        return SelfAttention(
            query=linear((embed,), heads),
            key=linear((embed,), shared),
            value=linear((embed,), shared),
            output=output(heads, (embed,)),
            head_size=head_size,
        )

    def __call__(self, x: NamedArray, mask: Mask, rotary: RotaryTable | None = None) -> NamedArray:
        """(..., position, embed) to the same axes."""
        position = x.resolve_axis(POSITION)
        key_position = position.alias(KEY_POSITION)
        query, key = self.query(x), self.key(x)
        if rotary is not None:
            query, key = rotate(query, rotary, self.head_size), rotate(key, rotary, self.head_size)
        attended = attention(
            query,
            key.rename({position: key_position}),
            self.value(x).rename({position: key_position}),
            mask,
            position=position,
            key_position=key_position,
            head_size=self.head_size,
        )
        return self.output(attended)
