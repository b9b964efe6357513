"""Matrix products whose factors are rounded to 8 bits or less. Sums have 32 bits.

``float8`` and ``int8``: a factor is scaled before it is rounded. With scales by row, each run of values that a sum goes
over has a scale of its own: each token, and each input or output of a weight. With scales by tensor, all values of a
factor share one. The scales come from the values themselves, so there is no history of scales that a checkpoint would
have to keep, and which microbatches would change.

- ``float8``: e4m3 has 4 bits of exponent and 3 of mantissa, e5m2 has 5 and 2 (Micikevicius et al. 2022). Scales are
  powers of 2, so scaling itself rounds nothing, and a scale that many values share only decides which of them become
  too small.
- ``int8``: 255 steps from the negative to the positive greatest value.

``mxfp8`` and ``nvfp4``: blocks of 32 or 16 values have a scale (`jax.nn.scaled_matmul`). On GPUs of compute capability
10, XLA multiplies them by a kernel of cuDNN. A sum that the blocks do not divide keeps the type of its factors.

Each product of a linear map has one of three roles, which decide the types of its factors: the product itself, that for
the gradient of its inputs, and that for the gradient of its parameters.

The operators of Haliax and JAX for float8 and int8 do not fit here. ``Fp8DotGeneralOp`` of Haliax has scales from
earlier steps; it returns them as gradients, which microbatches would add up. ``Int8DotGeneralOp`` (AQT) draws the same
random numbers in each step.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray

from halcyon_api.hardware.kinds import NarrowType
from halcyon_api.spec.narrow_products import Float8, NarrowProducts

Role = Literal["forward", "inputs", "parameters"]
"""The product of a linear map, that for the gradient of its inputs, and that for the gradient of its parameters."""
Kind = Float8 | Literal["int8"]
"""Type of a scaled factor."""

_MOST = 127
"""Greatest value of an int8 factor."""
_FLOAT8 = {"e4m3": jnp.float8_e4m3fn, "e5m2": jnp.float8_e5m2}
_EXPONENTS = {"e4m3": 8, "e5m2": 15}
"""Scaled values are below 2 to this power; the greatest numbers of the types are 448 and 57344."""
_LARGEST_SCALE = 100
"""Largest power of 2 of a scale, so that neither the scale nor its inverse overflows."""
_BLOCKS: dict[NarrowType, int] = {"mxfp8": 32, "nvfp4": 16}
"""Values that share a scale."""
_NVFP4_MOST = 6.0 * 448.0
"""Greatest value of nvfp4: that of a factor times that of the scale of its block."""


def is_narrow(products: NarrowProducts, role: Role) -> bool:
    """Whether the product of this role has narrow factors."""
    if role != "forward" and products.kind == "nvfp4":
        return False
    return role != "parameters" or products.parameter_gradients


def of_head(products: NarrowProducts) -> NarrowProducts | None:
    """The choices for the output head.

    The gradient of a softmax over many words has many small values beside a great one. e4m3 would round those below
    2**-17 of it to zero, so it is e5m2 here.
    """
    return replace(products, gradients="e5m2") if products.head else None


def kinds(products: NarrowProducts, role: Role) -> tuple[Kind, Kind]:
    """The types of the two factors of a product, where they are scaled: activations or their gradient, then the weight
    or a gradient.
    """
    if products.kind == "int8":
        return "int8", "int8"
    match role:
        case "forward":
            return "e4m3", "e4m3"
        case "inputs":
            return products.gradients, "e4m3"
        case "parameters":
            return "e4m3", products.gradients


def narrow_dot(
    products: NarrowProducts,
    role: Role,
    x: NamedArray,
    y: NamedArray,
    over: Sequence[Axis],
    *,
    into: Any,
    order: tuple[Axis, ...] | None = None,
) -> NamedArray:
    """``x . y`` with rounded factors.

    Args:
        products: The types and scales.
        role: The product's role, see the module.
        x: The activations, or their gradient.
        y: The weight, or the gradient of the results.
        over: The axes to sum over. They are the only ones that `x` and `y` share.
        into: Type of the result.
        order: Axes of the result. Default: those of `x`, then those of `y`.
    """
    names = [axis.name for axis in over]
    over_x, over_y = (tuple(one.axis_names.index(name) for name in names) for one in (x, y))
    own_x, own_y = ([axis for axis in one.axes if axis.name not in names] for one in (x, y))
    if products.kind in _BLOCKS:
        found = _in_blocks(products.kind, x.array, y.array, over_x, over_y, into)
    else:
        found = _scaled(products, role, x.array, y.array, over_x, over_y, into)
    named: Any = NamedArray(found, (*(axis.name for axis in own_x), *(axis.name for axis in own_y)))
    return named if order is None else named.rearrange([axis.name for axis in order])


def _scaled(
    products: NarrowProducts,
    role: Role,
    x: jax.Array,
    y: jax.Array,
    over_x: tuple[int, ...],
    over_y: tuple[int, ...],
    into: Any,
) -> jax.Array:
    left_kind, right_kind = kinds(products, role)
    by_tensor = products.scales == "tensor"
    left, left_scale = rounded(left_kind, x, tuple(range(x.ndim)) if by_tensor else over_x)
    right, right_scale = rounded(right_kind, y, tuple(range(y.ndim)) if by_tensor else over_y)
    if left.dtype == jnp.int8:
        into_sums, precision = jnp.int32, None
    else:
        if jax.default_backend() == "cpu":  # on CPU, XLA has no product of two types
            left, right = left.astype(jnp.float32), right.astype(jnp.float32)
        # On GPUs, the default is to add up in fewer bits. The scales are powers of 2, so it does not matter whether
        # `into` rounds before them.
        fast = products.fast_accumulation == "always" or (products.fast_accumulation == "forward" and role == "forward")
        precision = jax.lax.Precision.HIGHEST if not fast and jax.default_backend() == "gpu" else None
        into_sums = into
    contracted = ((over_x, over_y), ((), ()))
    sums = jax.lax.dot_general(left, right, contracted, precision=precision, preferred_element_type=into_sums)
    sums = sums.astype(jnp.float32)
    own_y = y.ndim - len(over_y)
    left_scale = jnp.squeeze(left_scale, over_x)
    return (sums * left_scale.reshape(*left_scale.shape, *(1,) * own_y) * jnp.squeeze(right_scale, over_y)).astype(into)


def rounded(kind: Kind, x: jax.Array, over: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """`x` in 8 bits, and the scale to multiply it with: float32, with dimensions of size 1 in the place of `over`.

    A value that is not finite makes each result that it belongs to not finite.

    Args:
        kind: The type.
        x: The values.
        over: The dimensions that share a scale: those of the sum, or all.
    """
    wide = x.astype(jnp.float32)
    greatest = jnp.max(jnp.abs(wide), over, keepdims=True)
    if kind == "int8":
        scale = jnp.where(greatest == 0, 1.0, greatest / _MOST)
        return jnp.round(wide / scale).astype(jnp.int8), scale
    power = jnp.clip(_EXPONENTS[kind] - jnp.frexp(greatest)[1], -_LARGEST_SCALE, _LARGEST_SCALE)
    narrow = (wide * jnp.ldexp(jnp.float32(1), power)).astype(_FLOAT8[kind])
    return narrow, jnp.where(jnp.isfinite(greatest), jnp.ldexp(jnp.float32(1), -power), jnp.nan)


def _in_blocks(
    kind: NarrowType, x: jax.Array, y: jax.Array, over_x: tuple[int, ...], over_y: tuple[int, ...], into: Any
) -> jax.Array:
    if math.prod(x.shape[at] for at in over_x) % _BLOCKS[kind]:
        wide = jnp.float32 if jax.default_backend() == "cpu" else x.dtype
        return jax.lax.dot_general(
            x.astype(wide), y.astype(wide), ((over_x, over_y), ((), ())), preferred_element_type=into
        )
    (left, left_scales, left_factor), (right, right_scales, right_factor) = (
        in_blocks(kind, _summed_last(one, over)) for one, over in ((x, over_x), (y, over_y))
    )
    sums = jax.nn.scaled_matmul(
        left[None], right[None], left_scales[None], right_scales[None], preferred_element_type=into
    )[0]
    if kind == "nvfp4":
        sums = (sums.astype(jnp.float32) * (left_factor * right_factor)).astype(into)
    return sums.reshape(
        [one.shape[at] for one, over in ((x, over_x), (y, over_y)) for at in range(one.ndim) if at not in over]
    )


def in_blocks(kind: NarrowType, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`x` in blocks: its values, the scales of the blocks, and a factor of all values.

    ``mxfp8``: e4m3 with scales that are powers of 2 (OCP Microscaling Formats 1.0), rounded up so that no value is
    above 448. ``nvfp4``: e2m1 with scales in e4m3, relative to the greatest value of all. JAX's own rounding divides
    zero by zero in a block of zeros on CPUs.

    Args:
        kind: The type.
        x: [row, value]; blocks divide the values.
    """
    size = _BLOCKS[kind]
    wide = x.astype(jnp.float32).reshape(len(x), -1, size)
    greatest = jnp.max(jnp.abs(wide), -1, keepdims=True)
    if kind == "mxfp8":
        mantissa, exponent = jnp.frexp(greatest / 448.0)
        power = jnp.clip(jnp.where(mantissa == 0.5, exponent - 1, exponent), -_LARGEST_SCALE, _LARGEST_SCALE)
        narrow = (wide * jnp.ldexp(jnp.float32(1), -power)).astype(jnp.float8_e4m3fn)
        scales = jax.lax.bitcast_convert_type((power + 127).astype(jnp.uint8), jnp.float8_e8m0fnu)
        return narrow.reshape(x.shape), scales[..., 0], jnp.float32(1)
    most = jnp.max(greatest)
    factor = jnp.where(most == 0, 1.0, most / _NVFP4_MOST)
    scales = (greatest / (6.0 * factor)).astype(jnp.float8_e4m3fn)
    divisor = factor * scales.astype(jnp.float32)
    narrow = jnp.clip(jnp.where(divisor == 0, 0.0, wide / jnp.where(divisor == 0, 1.0, divisor)), -6.0, 6.0).astype(
        jnp.float4_e2m1fn
    )
    return narrow.reshape(x.shape), scales[..., 0], factor


def _summed_last(x: jax.Array, over: tuple[int, ...]) -> jax.Array:
    """`x` as [own, summed]."""
    own = [at for at in range(x.ndim) if at not in over]
    return x.transpose(*own, *over).reshape(math.prod(x.shape[at] for at in own), -1)
