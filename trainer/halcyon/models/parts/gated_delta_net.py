"""Gated delta nets (Yang et al. 2024): a mixer of positions with a state of fixed size in the place of attention.

Queries, keys and values go through a short convolution, of each feature alone. The state of each head then changes by
the gated delta rule (`halcyon.models.parts.delta_rule`). Several heads of values share one head of queries and keys.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import BATCH, POSITION, TAPS, elementwise, expanded, later, recomputed, with_array
from halcyon.models.cache import FixedState, Memory
from halcyon.models.parameters import Role, parameter
from halcyon.models.partition import divided
from halcyon.models.parts.delta_rule import delta_rule
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.mlp import activate
from halcyon.models.parts.norm import RmsNorm
from halcyon_api.spec.families.section import Activation


class CausalConvolution(eqx.Module):
    """``activation(sum over w of weight[taps - 1 - w] * x[position - w])``, within each segment."""

    taps: Axis = eqx.field(static=True)
    activation: Activation | None = eqx.field(static=True)
    weight: NamedArray = parameter(Role.CONVOLUTION, inputs="taps")

    def __call__(self, x: NamedArray, segments: NamedArray | None = None) -> NamedArray:
        """The axes and the type of `x`; the arithmetic is float32.

        Args:
            x: (..., position, ..., features).
            segments: (..., position) integers. None: one segment.
        """
        names = x.axis_names
        at = names.index(POSITION)

        def convolve(x: jax.Array, weight: jax.Array, segments: jax.Array | None) -> jax.Array:
            wide, total = x.astype(jnp.float32), jnp.zeros(x.shape, jnp.float32)
            for distance in range(min(self.taps.size, x.shape[at])):
                term = weight[..., self.taps.size - 1 - distance] * (later(wide, distance, at) if distance else wide)
                if (
                    distance and segments is not None
                ):  # 0 before the first position is masked by the shifted zeros of `x`
                    term = jnp.where(segments == later(segments, distance, at), term, 0.0)
                total = total + term
            return (total if self.activation is None else activate(self.activation, total)).astype(x.dtype)

        weight = expanded(self.weight.astype(jnp.float32), (*names, TAPS))
        return with_array(
            x, recomputed(convolve)(x.array, weight, None if segments is None else expanded(segments, names))
        )


_LENGTH_EPSILON = 1e-6
"""Added to the squared length of queries and keys."""


@dataclass(frozen=True)
class DeltaAxes:
    """The axes of a gated delta net.

    Attributes:
        embed: Features of the residual stream.
        key_heads: Heads of queries and keys.
        value_heads: Heads of values that share one of them.
        key_size: Features of a query or key.
        value_size: Features of a value.
    """

    embed: Axis
    key_heads: Axis
    value_heads: Axis
    key_size: Axis
    value_size: Axis

    @property
    def keys(self) -> tuple[Axis, ...]:
        """The features of all keys."""
        return (self.key_heads, self.key_size)

    @property
    def values(self) -> tuple[Axis, ...]:
        """The features of all values."""
        return (self.key_heads, self.value_heads, self.value_size)


class GatedDeltaNet(eqx.Module):
    """A gated delta net.

    Attributes:
        query: To queries.
        key: To keys.
        value: To values.
        gate: To the gate of the outputs.
        rate: To the rate of a head, before its sigmoid: how much a position corrects the state.
        decay: To the decay of a head's state, before its softplus.
        query_convolution: Convolution of queries.
        key_convolution: Convolution of keys.
        value_convolution: Convolution of values.
        log_decay: Logarithm of the factor of a head's decay.
        decay_shift: Added to the decay, before the softplus.
        norm: Norm of a head's outputs, before the gate.
        output: Into the residual stream.
        axes: The axes.
    """

    query: Linear
    key: Linear
    value: Linear
    gate: Linear
    rate: Linear
    decay: Linear
    query_convolution: CausalConvolution
    key_convolution: CausalConvolution
    value_convolution: CausalConvolution
    norm: RmsNorm
    output: Linear
    axes: DeltaAxes = eqx.field(static=True)
    log_decay: NamedArray = parameter(Role.BIAS)
    decay_shift: NamedArray = parameter(Role.BIAS)

    @property
    def kept(self) -> FixedState:
        """What a cache keeps: the last inputs of the three convolutions, and the state of each head."""
        axes, taps = self.axes, self.query_convolution.taps.size - 1
        inputs = tuple(
            ((taps, *(axis.size for axis in features)), False) for features in (axes.keys, axes.keys, axes.values)
        )
        heads = (axes.key_heads.size, axes.value_heads.size)
        return FixedState((*inputs, ((*heads, axes.key_size.size, axes.value_size.size), True)))

    def __call__(
        self, x: NamedArray, segments: NamedArray | None = None, rotary: None = None, *, memory: Memory | None = None
    ) -> NamedArray:
        """(..., position, embed) to the same axes.

        Args:
            x: The residual stream, after its norm.
            segments: (..., position) integers; a state begins with each segment. None: one segment.
            rotary: Not used: the order of positions is in the state.
            memory: The state after earlier positions; there is then one segment. None: there are none.
        """
        del rotary
        axes = self.axes
        state = None if memory is None else _Continued(memory)
        query, key, value = (
            convolution(linear(x), segments) if state is None else state.convolved(convolution, linear(x))
            for convolution, linear in (
                (self.query_convolution, self.query),
                (self.key_convolution, self.key),
                (self.value_convolution, self.value),
            )
        )
        outer = tuple(axis.name for axis in x.axes if axis.name not in (POSITION, axes.embed.name))
        heads = (axes.key_heads.name, axes.value_heads.name)
        of_keys = (*outer, axes.key_heads.name, POSITION, axes.key_size.name)
        of_values = (*outer, *heads, POSITION, axes.value_size.name)
        of_heads = (*outer, *heads, POSITION)
        arrays = (
            _unit(query.rearrange(of_keys).array) * axes.key_size.size**-0.5,
            _unit(key.rearrange(of_keys).array),
            value.rearrange(of_values).array.astype(jnp.float32),
            self._log_decays(x).rearrange(of_heads).array,
            jax.nn.sigmoid(self.rate(x).rearrange(of_heads).array.astype(jnp.float32)),
        )
        if state is None:
            ids = None if segments is None else expanded(segments, (*outer, POSITION))
            starts = None if ids is None else jnp.diff(ids, prepend=ids[..., :1]) != 0
            out, _ = recomputed(delta_rule)(*arrays, starts)
        else:
            out = state.ruled(*arrays)
        normed = self.norm(divided(NamedArray(out.astype(x.dtype), of_values)))
        return self.output(elementwise(recomputed(_gated), normed, self.gate(x)))

    def _log_decays(self, x: NamedArray) -> NamedArray:
        """The logarithm of the factor of each state at each position: float32."""

        def decays(x: jax.Array, log_decay: jax.Array, shift: jax.Array) -> jax.Array:
            return -jnp.exp(log_decay.astype(jnp.float32)) * jax.nn.softplus(x + shift.astype(jnp.float32))

        projected: Any = self.decay(x).astype(jnp.float32)
        return elementwise(recomputed(decays), projected, self.log_decay, self.decay_shift)


class _Continued:
    """Continues the convolutions and the state of a layer after earlier positions; a call replaces them in the layer's
    memory.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        *self._inputs, self._state = memory.fixed
        self._kept: list[jax.Array] = []

    def convolved(self, convolution: CausalConvolution, x: NamedArray) -> NamedArray:
        """The next convolution of `x`: (batch, position, features)."""
        before = self._inputs[len(self._kept)]
        names = tuple(name for name in x.axis_names if name not in (BATCH, POSITION))
        ordered = x.rearrange((BATCH, POSITION, *names))
        joined = jnp.concatenate((before.astype(x.dtype), ordered.array), 1)
        counts, taps = self._memory.counts(ordered.array.shape[1]), before.shape[1]
        self._kept.append(
            jax.vmap(lambda row, count: jax.lax.dynamic_slice_in_dim(row, count, taps, 0))(joined, counts)
        )
        out = convolution(hax.named(joined, (BATCH, POSITION, *names)))
        return hax.named(out.array[:, taps:], (BATCH, POSITION, *names))

    def ruled(
        self, query: jax.Array, key: jax.Array, value: jax.Array, log_decay: jax.Array, rate: jax.Array
    ) -> jax.Array:
        """The outputs of all positions; see `delta_rule`. Padding does not change the state."""
        positions = jnp.arange(rate.shape[-1], dtype=jnp.int32)
        counted = (positions < self._memory.counts(rate.shape[-1])[:, None])[:, None, None]
        log_decay, rate = jnp.where(counted, log_decay, 0.0), jnp.where(counted, rate, 0.0)
        out, last = delta_rule(query, key, value, log_decay, rate, state=self._state)
        self._memory.replace((*self._kept, last))
        return out


def _gated(x: jax.Array, gate: jax.Array) -> jax.Array:
    return (x.astype(jnp.float32) * jax.nn.silu(gate.astype(jnp.float32))).astype(x.dtype)


def _unit(x: jax.Array) -> jax.Array:
    """Vectors of length 1, in float32."""
    wide = x.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.sum(wide * wide, -1, keepdims=True) + _LENGTH_EPSILON)
