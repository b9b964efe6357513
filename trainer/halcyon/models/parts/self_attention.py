"""Self-attention as a part of a block: projections, rotary positions, `attention`, the output projection.

Latent attention (DeepSeek-AI 2024, section 2.1.1) projects keys and values from a vector of few features, which a cache
can keep. A head has plain features, from that vector, and rotated features. The rotated features of keys are one head
that all heads share.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import HEAD_SIZE, KEY_POSITION, LAYERS, POSITION, elementwise, recomputed
from halcyon.models.cache import Memory
from halcyon.models.dropout import WithSites
from halcyon.models.parameters import Role, parameter
from halcyon.models.parts.attention import attention
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.masks import Mask
from halcyon.models.parts.norm import RmsNorm
from halcyon.models.parts.rotary import RotaryTable, rotate
from halcyon.models.parts.weight import add_wide, contract


class SelfAttention(WithSites):
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
        mask: Mask | None,
        rotary: RotaryTable | None = None,
        *,
        factor: jax.Array | None = None,
        memory: Memory | None = None,
        added: NamedArray | None = None,
        others: tuple[NamedArray, NamedArray] | None = None,
    ) -> NamedArray:
        """(..., position, embed) to the same axes.

        Args:
            x: The residual stream, after its norm.
            mask: The keys that a query sees. None: all.
            rotary: The rotation of queries and keys. None: no rotation.
            factor: A further factor of the scores, such as one of the layer. None: 1.
            memory: Keys and values of earlier positions; it then decides the keys that a query sees. None: only those
                of `x`.
            added: Added to the values: (..., position, kv_heads, head_size). None: nothing.
            others: Keys and values of another sequence, as `keys_and_values` makes them, without rotation and memory:
                cross attention. None: those of `x`.
        """
        if others is not None:
            return self._output(x, self.query(x), *others, mask)
        query, key = self.query(x), self.key(x)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotary is not None:
            query, key = rotate(query, rotary, self.head_size), rotate(key, rotary, self.head_size)
        factored = query if factor is None else (query * factor).astype(query.dtype)
        value = self.value(x) if added is None else add_wide(self.value(x), added)
        if memory is None:
            key, value = key.rename({POSITION: KEY_POSITION}), value.rename({POSITION: KEY_POSITION})
        else:
            (key, value), mask = memory.extended(key, value)
        return self._output(x, factored, key, value, mask)

    def keys_and_values(self, x: NamedArray) -> tuple[NamedArray, NamedArray]:
        """Those of another sequence, for cross attention to it: (..., key_position, kv_heads, head_size) each."""
        return self.key(x).rename({POSITION: KEY_POSITION}), self.value(x).rename({POSITION: KEY_POSITION})

    def _output(
        self, x: NamedArray, query: NamedArray, key: NamedArray, value: NamedArray, mask: Mask | None
    ) -> NamedArray:
        attended = attention(
            query,
            key,
            value,
            mask,
            scale=self.scale,
            soft_cap=self.soft_cap,
            sinks=self.sinks,
            dropout=self.sites[0] if self.sites else None,
        )
        if self.gate is not None:
            attended = elementwise(
                recomputed(lambda attended, gate: attended * jax.nn.sigmoid(gate)), attended, self.gate(x)
            )
        return self.output(attended)


class LatentAttention(WithSites):
    """Multi-head latent attention.

    Attributes:
        query_down: From the residual stream to the latent vector of queries. None: queries come from the residual
            stream.
        query_latent_norm: Norm of that vector.
        query_plain: To the plain features of queries.
        query_rotary: To the rotated features of queries.
        latent: From the residual stream to the latent vector of keys and values.
        latent_norm: Norm of that vector.
        key_rotary: From the residual stream to the rotated features of keys, for all heads together.
        key_plain: From the latent vector to the plain features of keys.
        value: From the latent vector to values.
        output: From the heads' values to the residual stream.
        plain: Plain features of a head.
        rotary: Rotated features of a head.
        value_size: Features of a value.
        scale: Factor of the scores. None: 1 / sqrt(features of a head).
    """

    query_down: Linear | None
    query_latent_norm: RmsNorm | None
    query_plain: Linear
    query_rotary: Linear
    latent: Linear
    latent_norm: RmsNorm
    key_rotary: Linear
    key_plain: Linear
    value: Linear
    output: Linear
    plain: Axis = eqx.field(static=True)
    rotary: Axis = eqx.field(static=True)
    value_size: Axis = eqx.field(static=True)
    scale: float | None = eqx.field(static=True)

    @property
    def kept(self) -> tuple[tuple[Axis, ...], ...]:
        """The features that a cache keeps of a position: the latent vector, and the rotated features of keys."""
        return ((Axis(HEAD_SIZE, self._rank.size + self.rotary.size),),)

    def __call__(self, x: NamedArray, mask: Mask, rotary: RotaryTable, *, memory: Memory | None = None) -> NamedArray:
        """(..., position, embed) to the same axes.

        Args:
            x: The residual stream, after its norm.
            mask: The keys that a query sees.
            rotary: The rotation, with the axis `rotary`.
            memory: Latent vectors of earlier positions; it then decides the keys that a query sees. None: only those of
                `x`.
        """
        source, key_rotary = x, rotate(self.key_rotary(x), rotary, self.rotary)
        if self.query_down is not None and self.query_latent_norm is not None:
            source = self.query_latent_norm(self.query_down(x))
        latent = self.latent_norm(self.latent(x))
        if memory is not None:
            return self._remembering(source, latent, key_rotary, rotary, memory)
        plain = self.query_plain(source)
        query = _joined(plain, rotate(self.query_rotary(source), rotary, self.rotary), self.plain, self.rotary)
        key = _joined(self.key_plain(latent), key_rotary, self.plain, self.rotary)
        attended = attention(
            query,
            key.rename({POSITION: KEY_POSITION}),
            self.value(latent).rename({POSITION: KEY_POSITION}),
            mask,
            value_size=self.value_size,
            scale=self.scale,
            dropout=self.sites[0] if self.sites else None,
        )
        return self.output(attended)

    def _remembering(
        self, source: NamedArray, latent: NamedArray, key_rotary: NamedArray, rotary: RotaryTable, memory: Memory
    ) -> NamedArray:
        """Attention to latent vectors themselves: the maps to plain keys and to values are applied to queries and
        results instead.

        So a kept position costs as much as one head's key, whatever the number of heads (DeepSeek-AI 2024, section
        2.1.2).
        """
        rank, plain = self._rank, self.query_plain(source)
        seen = contract(plain, self.key_plain.weight, self.plain)
        query = _joined(seen, rotate(self.query_rotary(source), rotary, self.rotary), rank, self.rotary)
        (kept,), mask = memory.extended(_joined(latent, key_rotary, rank, self.rotary))
        attended = attention(
            query,
            kept,
            kept[HEAD_SIZE, : rank.size].rename({HEAD_SIZE: rank.name}),
            mask,
            value_size=rank,
            scale=(self.plain.size + self.rotary.size) ** -0.5 if self.scale is None else self.scale,
        )
        return self.output(contract(attended, self.value.weight, rank))

    @property
    def _rank(self) -> Axis:
        """Features of the latent vector of keys and values."""
        return self.key_plain.inputs[0]


def _joined(first: NamedArray, second: NamedArray, of_first: Axis, of_second: Axis) -> NamedArray:
    """The features of two arrays as one axis, the last.

    Where the second lacks an axis of the first, it is copied along it.
    """
    outer = tuple(axis for axis in first.axes if axis != of_first)
    left = first.rearrange((*outer, of_first)).array
    right: Any = second.broadcast_to((*outer, of_second)).rearrange((*outer, of_second)).array
    return hax.named(jnp.concatenate((left, right), -1), (*outer, Axis(HEAD_SIZE, of_first.size + of_second.size)))
