"""Frozen weights as codes of 4 or 8 bits, with a scale for each block of inputs (QLoRA, Dettmers et al. 2023).

A block is a run of values of one output along the last axis of the inputs, so it never crosses an output, and a mesh
divides codes and scales as it divides the weight. The values of a block are divided by its scale and rounded:

- ``nf4``: blocks of 64, scale: the greatest absolute value, codes: the 16 quantiles of a normal distribution in
  appendix E of that paper. The codes and values are those of bitsandbytes, without its second quantisation of scales.
- ``mxfp4``: blocks of 32, scale: a power of 2, codes: e2m1 (OCP Microscaling Formats 1.0, section 6.3).
- ``int8``, ``float8``: blocks of 64, scale: the greatest absolute value divided by 127 or 448, codes: integers, or
  e4m3.

Two codes of 4 bits share a byte, the first in its upper half. Weights are rounded on the host with NumPy, so the codes
depend on neither the hardware nor the mesh. A product decodes them next to its use, once forward and once backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import Axis, NamedArray
from jax.typing import DTypeLike

from halcyon.models.parameters import STACKED_AXES, Role, parameter
from halcyon_api.spec.adapter import BASES, Base

Region = tuple[slice, ...]
CODES, SCALES = "codes", "scales"
"""Ends of the paths of a coded weight."""
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = {"nf4": _NF4, "mxfp4": (*_E2M1, *(-value for value in _E2M1))}
_NF4_BETWEEN = (np.array(_NF4[:-1], np.float32) + np.array(_NF4[1:], np.float32)) / np.float32(2)
_E2M1_BETWEEN = (np.array(_E2M1[:-1], np.float32) + np.array(_E2M1[1:], np.float32)) / np.float32(2)
_E2M1_BETWEEN[1::2] = np.nextafter(_E2M1_BETWEEN[1::2], np.float32(0))  # a value in the middle goes to the even code
_LEAST_SCALE = 1e-38
_MOST = {"int8": 127, "float8": 448}
LEAST_WEIGHTS = 4096
"""Linear maps with fewer weights, such as gates, keep their type: they need little memory, and their errors have large
effects.
"""


class Coded(eqx.Module):
    """A weight as codes and scales. Where a product or an adapter takes a weight, it takes this one too.

    Attributes:
        base: How it is coded.
        inputs: The axes that its linear map sums over.
        role: The role of the weight.
        kind: Type of the decoded weight.
        codes: The axes of the weight; two codes of 4 bits share an element of the last of `inputs`.
        scales: The axes of the weight, with one element for each block of the last of `inputs`.
    """

    base: Base = eqx.field(static=True)
    inputs: tuple[Axis, ...] = eqx.field(static=True)
    role: Role = eqx.field(static=True)
    kind: str = eqx.field(static=True)
    codes: NamedArray = parameter("role", inputs="inputs")
    scales: NamedArray = parameter(Role.NORM)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes of the weight."""
        last, per_element = self.inputs[-1].name, BASES[self.base].per_element
        return tuple(axis.resize(axis.size * per_element) if axis.name == last else axis for axis in self.codes.axes)

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the decoded weight."""
        return jnp.dtype(self.kind)

    def astype(self, dtype: DTypeLike) -> NamedArray:
        """The weight: decoded in float32, rounded to its own type, and cast."""
        at = self.codes.axis_names.index(self.inputs[-1].name)
        values: Any = decoded(self.base, self.codes.array, self.scales.array, at)
        return hax.named(values.astype(self.dtype).astype(dtype), self.axes)

    @staticmethod
    def of(base: Base, weight: NamedArray, inputs: tuple[Axis, ...], role: Role) -> Coded:
        """A weight of any axes as codes. See `fits`."""
        at, last = weight.axis_names.index(inputs[-1].name), inputs[-1]
        codes, scales = encoded(base, weight.array, at)

        def named(array: Any) -> NamedArray:
            return hax.named(array, (*weight.axes[:at], last.resize(array.shape[at]), *weight.axes[at + 1 :]))

        return Coded(base, inputs, role, weight.dtype.name, named(codes), named(scales))


def without_codes(tree: Any) -> Any:
    """`tree` with each coded weight decoded."""
    return jax.tree.map(lambda node: node.astype(node.dtype) if is_coded(node) else node, tree, is_leaf=is_coded)


def is_coded(node: object) -> bool:
    """True for a coded weight; an ``is_leaf`` of tree functions."""
    return isinstance(node, Coded)


def fits(base: Base, inputs: tuple[Axis, ...]) -> bool:
    """Whether blocks divide the inputs of a weight."""
    return inputs[-1].size % BASES[base].block == 0


def is_large(weight: NamedArray | Coded) -> bool:
    """Whether a weight has at least `LEAST_WEIGHTS`."""
    return math.prod(axis.size for axis in weight.axes if axis.name not in STACKED_AXES) >= LEAST_WEIGHTS


def blocks_around(base: Base, region: Region, at: int, values: int) -> tuple[Callable[[int], Region], Region]:
    """The whole blocks around a region: a function that gives their region in an array by the values of its elements,
    and the region among their elements.

    Args:
        base: How the weight is coded.
        region: A slice for each dimension.
        at: The dimension that blocks are runs of.
        values: Values of an element of the region: 1 of a weight, else those of a code or of a block.
    """
    block = BASES[base].block
    each = block // values
    first, end = region[at].start // each, -(-region[at].stop // each)

    def of(values: int) -> Region:
        return (*region[:at], slice(first * block // values, end * block // values), *region[at + 1 :])

    inside = slice(region[at].start - first * each, region[at].stop - first * each)
    return of, (*(slice(None),) * at, inside)


def encoded(base: Base, weight: Any, at: int) -> tuple[Any, Any]:
    """Codes and scales of a weight, of NumPy or JAX.

    Args:
        base: How it is coded.
        weight: Any shape.
        at: The dimension that blocks are runs of.

    Returns:
        Codes: uint8 with half the elements of the dimension for 4 bits, int8, or float8_e4m3fn. Scales: float32 with an
        element for each block; for mxfp4 uint8, the exponents of powers of 2 plus 127.
    """
    xp, form = _arrays(weight), BASES[base]
    wide = xp.moveaxis(weight, at, -1).astype(np.float32)
    blocks = wide.reshape(*wide.shape[:-1], -1, form.block)
    greatest = xp.max(xp.abs(blocks), -1, keepdims=True)
    if base == "mxfp4":
        exponents = xp.clip(xp.frexp(greatest)[1] - 3, -126, 127)  # the greatest e2m1 is 1.5 x 2^2
        scales = (exponents + 127).astype(np.uint8)
        scaled = blocks / _powers(scales)
        codes = _above(_E2M1_BETWEEN, xp.abs(scaled)) + 8 * (scaled < 0).astype(np.uint8)
    elif base == "nf4":
        scales = greatest
        inverse = np.float32(1) / xp.maximum(greatest, np.float32(_LEAST_SCALE))
        codes = _above(_NF4_BETWEEN, blocks * inverse)
    else:
        most = np.float32(_MOST[base])
        scales = xp.where(greatest > 0, greatest * (1 / most), np.float32(1))
        scaled = xp.clip(blocks / scales, -most, most)
        codes = (xp.round(scaled) if base == "int8" else scaled).astype(form.dtype)
    codes = codes.reshape(wide.shape)
    if form.per_element == 2:
        codes = codes[..., ::2] << 4 | codes[..., 1::2]
    return xp.moveaxis(codes, -1, at), xp.moveaxis(scales[..., 0], -1, at)


def decoded(base: Base, codes: Any, scales: Any, at: int) -> Any:
    """The values of codes and scales in float32; see `encoded`."""
    xp, form, shape = _arrays(codes), BASES[base], codes.shape
    if form.per_element == 1:
        values = codes.astype(np.float32)
    else:
        numbers, table = xp.stack([codes >> 4, codes & 15], at + 1), np.array(VALUES[base], np.float32)
        if xp is np:
            values = table[numbers]
        else:  # selections are fused into the product's input; a look-up in a table would not be
            values = jax.lax.select_n(numbers.astype(jnp.int32), *(jnp.full(numbers.shape, one) for one in table))
    blocks = values.reshape(*shape[:at], -1, form.block, *shape[at + 1 :])
    factors = _powers(scales) if base == "mxfp4" else scales
    whole = shape[at] * form.per_element
    return (blocks * xp.expand_dims(factors, at + 1)).reshape(*shape[:at], whole, *shape[at + 1 :])


def _above(bounds: np.ndarray, values: Any) -> Any:
    """The number of bounds below each value: uint8."""
    count = _arrays(values).zeros(values.shape, np.uint8)
    for bound in bounds:
        count = count + (values > bound)
    return count


def _powers(exponents: Any) -> Any:
    """2 to the power of each exponent minus 127, by the bits of a float32."""
    bits = exponents.astype(np.uint32) << 23
    return bits.view(np.float32)


def _arrays(array: Any) -> Any:
    return jnp if isinstance(array, jax.Array) else np
