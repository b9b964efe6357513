"""Normalisations. They compute in float32 whatever the compute type, and return the type of their input."""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon.models.axes import elementwise, recomputed
from halcyon.models.parameters import Role, parameter

Scaling = Literal["wide", "rounded", "offset"]
"""How `RmsNorm` applies its weight. They differ in what is rounded to the type of the input, and so only in narrow
types.

- ``wide``: ``round(x / rms * weight)``, as OLMo does.
- ``rounded``: ``round(round(x / rms) * round(weight))``, as Mistral and Qwen do.
- ``offset``: ``round(x / rms * (1 + weight))`` with weights that start at 0, as Gemma 1 to 3 do.
"""


class RmsNorm(eqx.Module):
    """Division by the root mean square, then a scale (Zhang and Sennrich 2019).

    Attributes:
        axes: The axes of the mean: the features of the residual stream, of a head, or of all heads together.
        epsilon: Added to the mean square.
        scaling: How the weight is applied.
        weight: The scale, over `axes`. None: no scale.
    """

    axes: tuple[Axis, ...] = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)
    weight: NamedArray | None = parameter(Role.NORM)
    scaling: Scaling = eqx.field(static=True, default="wide")

    @staticmethod
    def init(
        axes: Axis | tuple[Axis, ...],
        *,
        stacked: tuple[Axis, ...] = (),
        epsilon: float,
        dtype: jnp.dtype,
        scaling: Scaling = "wide",
    ) -> RmsNorm:
        """A factor of 1 for every feature, shape (*stacked, *axes)."""
        axes = (axes,) if isinstance(axes, Axis) else axes
        start = hax.zeros if scaling == "offset" else hax.ones
        return RmsNorm(axes, epsilon, start((*stacked, *axes), dtype=dtype), scaling)

    def __call__(self, x: NamedArray) -> NamedArray:
        """The axes and the type of `x`."""
        at = tuple(x.axis_names.index(axis.name) for axis in self.axes)
        features = at[0] if len(at) == 1 else at

        def normalise(x: jax.Array, *weight: jax.Array) -> jax.Array:
            wide = x.astype(jnp.float32)
            mean = jnp.mean(wide * wide, features, keepdims=True) + self.epsilon
            normal = wide * jax.lax.rsqrt(mean)
            if not weight:
                return normal.astype(x.dtype)
            if self.scaling == "rounded":
                return (_rounded(normal, x.dtype) * _rounded(weight[0].astype(jnp.float32), x.dtype)).astype(x.dtype)
            factor = weight[0].astype(jnp.float32)
            return (normal * (1.0 + factor if self.scaling == "offset" else factor)).astype(x.dtype)

        return elementwise(recomputed(normalise), x, *(() if self.weight is None else (self.weight,)))


def _rounded(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`x` with the precision of `dtype`, in its own type. The gradient passes unchanged, so that of a weight keeps its
    precision.

    XLA may drop a cast to a narrow type and back; it never drops this.
    """
    if dtype == x.dtype:
        return x
    kept = jnp.finfo(dtype)
    return x + jax.lax.stop_gradient(jax.lax.reduce_precision(x, kept.nexp, kept.nmant) - x)


class LayerNorm(eqx.Module):
    """Subtraction of the mean, division by the standard deviation, then scale and shift (Ba et al. 2016).

    A `bias` of None is no shift.
    """

    axis: Axis = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)
    weight: NamedArray = parameter(Role.NORM)
    bias: NamedArray | None = parameter(Role.NORM)

    @staticmethod
    def init(
        axis: Axis, *, stacked: tuple[Axis, ...] = (), epsilon: float, dtype: jnp.dtype, shift: bool = True
    ) -> LayerNorm:
        """Scale 1, shift 0, shapes (*stacked, axis)."""
        axes = (*stacked, axis)
        return LayerNorm(axis, epsilon, hax.ones(axes, dtype=dtype), hax.zeros(axes, dtype=dtype) if shift else None)

    def __call__(self, x: NamedArray) -> NamedArray:
        """The axes and the type of `x`."""
        feature = x.axis_names.index(self.axis.name)

        def normalise(x: jax.Array, weight: jax.Array, *bias: jax.Array) -> jax.Array:
            wide = x.astype(jnp.float32)
            centred = wide - jnp.mean(wide, feature, keepdims=True)
            inverse = jax.lax.rsqrt(jnp.mean(centred * centred, feature, keepdims=True) + self.epsilon)
            scaled = centred * inverse * weight.astype(jnp.float32)
            return (scaled + bias[0].astype(jnp.float32) if bias else scaled).astype(x.dtype)

        return elementwise(recomputed(normalise), x, self.weight, *(() if self.bias is None else (self.bias,)))


Norm = RmsNorm | LayerNorm
