"""Normalisations. They compute in float32 whatever the compute type, and return the type of their input."""

from __future__ import annotations

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.elementwise import elementwise, recomputed
from halcyon.models.parameters import Role, parameter


class RmsNorm(eqx.Module):
    """Division by the root mean square, then a scale (Zhang and Sennrich 2019)."""

    axis: Axis = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)
    weight: NamedArray = parameter(Role.NORM)

    @staticmethod
    def init(axis: Axis, *, stacked: tuple[Axis, ...] = (), epsilon: float, dtype: jnp.dtype) -> RmsNorm:
        """Scale 1, shape (*stacked, axis)."""
        return RmsNorm(axis, epsilon, hax.ones((*stacked, axis), dtype=dtype))

    def __call__(self, x: NamedArray) -> NamedArray:
        """The axes and the type of `x`."""
        feature = x.axis_names.index(self.axis.name)

        def normalise(x: jax.Array, weight: jax.Array) -> jax.Array:
            wide = x.astype(jnp.float32)
            inverse = jax.lax.rsqrt(jnp.mean(wide * wide, feature, keepdims=True) + self.epsilon)
            return (wide * inverse * weight.astype(jnp.float32)).astype(x.dtype)

        return elementwise(recomputed(normalise), x, self.weight)


class LayerNorm(eqx.Module):
    """Subtraction of the mean, division by the standard deviation, then scale and shift (Ba et al. 2016)."""

    axis: Axis = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)
    weight: NamedArray = parameter(Role.NORM)
    bias: NamedArray = parameter(Role.NORM)

    @staticmethod
    def init(axis: Axis, *, stacked: tuple[Axis, ...] = (), epsilon: float, dtype: jnp.dtype) -> LayerNorm:
        """Scale 1, shift 0, shapes (*stacked, axis)."""
        axes = (*stacked, axis)
        return LayerNorm(axis, epsilon, hax.ones(axes, dtype=dtype), hax.zeros(axes, dtype=dtype))

    def __call__(self, x: NamedArray) -> NamedArray:
        """The axes and the type of `x`."""
        feature = x.axis_names.index(self.axis.name)

        def normalise(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
            wide = x.astype(jnp.float32)
            centred = wide - jnp.mean(wide, feature, keepdims=True)
            inverse = jax.lax.rsqrt(jnp.mean(centred * centred, feature, keepdims=True) + self.epsilon)
            return (centred * inverse * weight.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)

        return elementwise(recomputed(normalise), x, self.weight, self.bias)
