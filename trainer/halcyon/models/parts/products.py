"""Matrix products whose factors are rounded to 8 bits, as an operator for ``haliax.dot``. Sums have 32 bits.

A factor is scaled before it is rounded, with a scale of its own for each run of values that a sum goes over: for each token, and for each
input or output of a weight. The scales come from the values themselves. So no result depends on the other tokens of the batch, neither
microbatches nor the mesh change a number, and there is no history of scales that a checkpoint would have to keep.

- ``float8``: 4 bits of exponent and 3 of mantissa (Micikevicius et al. 2022). Scales are powers of 2, so scaling itself rounds nothing.
- ``int8``: 255 steps from the negative to the positive greatest value.

The operators of Haliax and JAX do not fit here. ``Fp8DotGeneralOp`` of Haliax has scales from earlier steps; it returns them as gradients,
which microbatches would add up. ``Int8DotGeneralOp`` (AQT) draws the same random numbers in each step. Both give the gradient of a weight
in the compute type. ``jax.nn.scaled_dot_general`` has blocks of 32 values, which only the newest GPUs multiply, and rounds the factors of
the gradient of a weight too.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from halcyon_api.hardware import EightBit

_Dimensions = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]
_MOST = 127
"""Greatest value of an int8 factor."""
_FLOAT8_EXPONENT = 8
"""Scaled values are below 2 to this power; the greatest number of the type is 448."""
_LARGEST_SCALE = 100
"""Largest power of 2 of a scale, so that neither the scale nor its inverse overflows."""


class DotGeneral(Protocol):
    """A replacement of `jax.lax.dot_general`."""

    def __call__(
        self,
        lhs: jax.Array,
        rhs: jax.Array,
        dimension_numbers: _Dimensions,
        precision: Any = None,
        preferred_element_type: Any = None,
        **options: Any,
    ) -> jax.Array:
        """See `jax.lax.dot_general`."""
        ...


@functools.cache
def narrow_product(kind: EightBit) -> DotGeneral:
    """The operator that rounds both factors to this type; the same function for the same type."""
    return functools.partial(_dot_general, kind)


def _dot_general(
    kind: EightBit,
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: _Dimensions,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> jax.Array:
    del precision, options
    (over_left, over_right), (batch_left, batch_right) = dimension_numbers
    into = jnp.result_type(lhs, rhs) if preferred_element_type is None else preferred_element_type
    left, left_scale = rounded(kind, lhs, tuple(over_left))
    right, right_scale = rounded(kind, rhs, tuple(over_right))
    sums = _product(kind, left, right, dimension_numbers, into).astype(jnp.float32)
    batch = len(batch_left)
    own_left, own_right = (x.ndim - len(over) - batch for x, over in ((lhs, over_left), (rhs, over_right)))
    left_scale = _batch_first(left_scale, over_left, batch_left)
    right_scale = _batch_first(right_scale, over_right, batch_right)
    left_scale = left_scale.reshape(*left_scale.shape, *(1,) * own_right)
    right_scale = right_scale.reshape(*right_scale.shape[:batch], *(1,) * own_left, *right_scale.shape[batch:])
    return (sums * left_scale * right_scale).astype(into)


def rounded(kind: EightBit, x: jax.Array, over: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """`x` in 8 bits, and the scale to multiply it with: float32, with dimensions of size 1 in the place of `over`.

    A value that is not finite makes each result that it belongs to not finite.

    Args:
        kind: The type.
        x: The values.
        over: The dimensions that share a scale: those of the sum.
    """
    wide = x.astype(jnp.float32)
    greatest = jnp.max(jnp.abs(wide), over, keepdims=True)
    if kind == "int8":
        scale = jnp.where(greatest == 0, 1.0, greatest / _MOST)
        return jnp.round(wide / scale).astype(jnp.int8), scale
    power = jnp.clip(_FLOAT8_EXPONENT - jnp.frexp(greatest)[1], -_LARGEST_SCALE, _LARGEST_SCALE)
    narrow = (wide * jnp.ldexp(jnp.float32(1), power)).astype(jnp.float8_e4m3fn)
    return narrow, jnp.where(jnp.isfinite(greatest), jnp.ldexp(jnp.float32(1), -power), jnp.nan)


def _product(kind: EightBit, left: jax.Array, right: jax.Array, dimension_numbers: _Dimensions, into: Any) -> jax.Array:
    if kind == "int8":
        return jax.lax.dot_general(left, right, dimension_numbers, preferred_element_type=jnp.int32)
    # On GPUs, the default is to add up in fewer bits. The scales are powers of 2, so it does not matter whether `into` rounds before them.
    precision = jax.lax.Precision.HIGHEST if jax.default_backend() == "gpu" else None
    return jax.lax.dot_general(left, right, dimension_numbers, precision=precision, preferred_element_type=into)


def _batch_first(scale: jax.Array, over: tuple[int, ...], batch: tuple[int, ...]) -> jax.Array:
    """A scale without the dimensions of the sum, those of the batch in front, as in the result of a product."""
    own = [at for at in range(scale.ndim) if at not in (*over, *batch)]
    return scale.transpose(*batch, *own, *over).reshape([scale.shape[at] for at in (*batch, *own)])
