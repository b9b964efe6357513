"""Self-attention as a part of a block: projections, rotary positions, `attention`, the output projection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
from haliax import Axis, NamedArray

from halcyon.models.arrays import elementwise, recomputed
from halcyon.models.axes import KEY_POSITION, LAYERS, POSITION
from halcyon.models.cache import Memory
from halcyon.models.parameters import Role, parameter
from halcyon.models.parts.attention import attention
from halcyon.models.parts.linear import InitLinear, Linear, add_wide
from halcyon.models.parts.masks import Mask
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.rotary import RotaryTable, rotate


class SelfAttention(eqx.Module):
    """Multi-head self-attention; with grouped queries if keys and values have fewer heads (Ainslie et al. 2023).

    Attributes:
        query: From the residual stream to the query heads.
        key: From the residual stream to the heads of keys.
        value: From the residual stream to the heads of values.
        output: From the query heads to the residual stream.
        head_size: Features of a head.
        query_norm: Norm of queries before their rotation, over a head or over all heads. None: none.
        key_norm: Norm of keys before their rotation.
        sinks: Scores of a key without a value, one for each query head. None: no such key.
        scale: Factor of the scores. None: 1 / sqrt(head_size).
        soft_cap: Smooth limit of the scores. None: no limit.
        gate: To a factor of each feature of the attended values, after a sigmoid. None: no such factor.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    head_size: Axis = eqx.field(static=True)
    query_norm: RmsNorm | None = None
    key_norm: RmsNorm | None = None
    sinks: NamedArray | None = parameter(Role.BIAS, default=None)
    scale: float | None = eqx.field(static=True, default=None)
    soft_cap: float | None = eqx.field(static=True, default=None)
    gate: Linear | None = None

    @staticmethod
    def init(
        embed: Axis,
        key_heads: tuple[Axis, ...],
        queries: tuple[Axis, ...],
        head_size: Axis,
        linear: InitLinear,
        output: InitLinear,
        *,
        norm: Callable[[tuple[Axis, ...]], RmsNorm] | None = None,
        norm_of: Literal["head", "projection"] = "head",
        sinks: NamedArray | None = None,
        scale: float | None = None,
        soft_cap: float | None = None,
        gated: bool = False,
    ) -> SelfAttention:
        """Random projections.

        Args:
            embed: Features of the residual stream.
            key_heads: Heads of keys and values.
            queries: Query heads that share one head of keys and values; empty: one query head each.
            head_size: Features of a head.
            linear: Makes the projections of queries, keys and values.
            output: Makes the projection into the residual stream.
            norm: Makes the norms of queries and of keys. None: no norms.
            norm_of: Whether these norms are over the features of each head, or over those of all heads together.
            sinks: See the class.
            scale: See the class.
            soft_cap: See the class.
            gated: Whether there is a gate; `linear` makes it.
        """
        heads, shared = (*key_heads, *queries, head_size), (*key_heads, head_size)
        return SelfAttention(
            query=linear((embed,), heads),
            key=linear((embed,), shared),
            value=linear((embed,), shared),
            output=output(heads, (embed,)),
            head_size=head_size,
            query_norm=None if norm is None else norm(heads if norm_of == "projection" else (head_size,)),
            key_norm=None if norm is None else norm(shared if norm_of == "projection" else (head_size,)),
            sinks=sinks,
            scale=scale,
            soft_cap=soft_cap,
            gate=linear((embed,), heads) if gated else None,
        )

    @property
    def kept(self) -> tuple[tuple[Axis, ...], ...]:
        """The features of a key and of a value, as a cache keeps them."""
        parts = (self.key, self.value)
        return tuple(
            tuple(axis for axis in part.weight.axes if axis.name != LAYERS and axis not in part.inputs)
            for part in parts
        )

    def __call__(
        self,
        x: NamedArray,
        mask: Mask,
        rotary: RotaryTable | None = None,
        *,
        factor: jax.Array | None = None,
        memory: Memory | None = None,
        added: NamedArray | None = None,
    ) -> NamedArray:
        """(..., position, embed) to the same axes.

        Args:
            x: The residual stream, after its norm.
            mask: The keys that a query sees.
            rotary: The rotation of queries and keys. None: no rotation.
            factor: A further factor of the scores, such as one of the layer. None: 1.
            memory: Keys and values of earlier positions; it then decides the keys that a query sees. None: only those
                of `x`.
            added: Added to the values: (..., position, *key_heads, head_size). None: nothing.
        """
        position = x.resolve_axis(POSITION)
        key_position = position.alias(KEY_POSITION)
        query, key = self.query(x), self.key(x)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotary is not None:
            query, key = rotate(query, rotary, self.head_size), rotate(key, rotary, self.head_size)
        factored = query if factor is None else (query * factor).astype(query.dtype)
        value = self.value(x) if added is None else add_wide(self.value(x), added)
        if memory is None:
            key, value = key.rename({position: key_position}), value.rename({position: key_position})
        else:
            (key, value), mask = memory.extended(key, value)
            key_position = key.resolve_axis(KEY_POSITION)
        attended = attention(
            factored,
            key,
            value,
            mask,
            position=position,
            key_position=key_position,
            head_size=self.head_size,
            scale=self.scale,
            soft_cap=self.soft_cap,
            sinks=self.sinks,
        )
        if self.gate is not None:
            attended = elementwise(
                recomputed(lambda attended, gate: attended * jax.nn.sigmoid(gate)), attended, self.gate(x)
            )
        return self.output(attended)
