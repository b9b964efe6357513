"""A causal convolution over positions, of each feature alone."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from jaxtyping import PRNGKeyArray

from halcyon.models.axes import POSITION, TAPS
from halcyon.models.elementwise import expanded, recomputed, with_array
from halcyon.models.parameters import Role, parameter
from halcyon.models.parts.linear import normal
from halcyon.models.parts.mlp import activate
from halcyon_api.spec.families.section import Activation


class CausalConvolution(eqx.Module):
    """``activation(sum over w of weight[taps - 1 - w] * x[position - w])``, within each segment."""

    taps: Axis = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)
    weight: NamedArray = parameter(Role.CONVOLUTION, inputs="taps")

    @staticmethod
    def init(
        features: tuple[Axis, ...],
        taps: int,
        activation: Activation,
        *,
        stacked: tuple[Axis, ...] = (),
        std: float,
        dtype: jnp.dtype,
        key: PRNGKeyArray,
    ) -> CausalConvolution:
        """Normal weights (*stacked, *features, taps)."""
        axis = Axis(TAPS, taps)
        return CausalConvolution(axis, activation, normal(key, stacked, features, (axis,), std=std, dtype=dtype))

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
                term = weight[..., self.taps.size - 1 - distance] * _later(wide, distance, at)
                if (
                    distance and segments is not None
                ):  # 0 before the first position is masked by the shifted zeros of `x`
                    term = jnp.where(segments == _later(segments, distance, at), term, 0.0)
                total = total + term
            return activate(self.activation, total).astype(x.dtype)

        weight = expanded(self.weight.astype(jnp.float32), (*names, TAPS))
        return with_array(
            x, recomputed(convolve)(x.array, weight, None if segments is None else expanded(segments, names))
        )


def _later(x: jax.Array, distance: int, at: int) -> jax.Array:
    """`x` moved by `distance` positions, with zeros in front."""
    if not distance:
        return x
    padding = [(distance if axis == at else 0, 0) for axis in range(x.ndim)]
    return jax.lax.slice_in_dim(jnp.pad(x, padding), 0, x.shape[at], axis=at)
