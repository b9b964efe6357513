"""Products, sums and first values of weights, which the parts of a model use.

Types and precision are those of `halcyon.models.parts.linear`.
"""

import functools
import math
from collections.abc import Callable

import haliax as hax
import jax
import jax.numpy as jnp
from haliax import Axis, NamedArray
from haliax.axis import AxisSelection
from jax.typing import DTypeLike
from jaxtyping import PRNGKeyArray

from halcyon.models.axes import elementwise
from halcyon.models.partition import divided
from halcyon.models.parts.coded import Coded
from halcyon.models.parts.products import Role as ProductRole
from halcyon.models.parts.products import is_narrow, narrow_dot
from halcyon_api.spec.narrow_products import NarrowProducts


def drawn(draw: Callable[[list[int]], jax.Array], *groups: tuple[Axis, ...], dtype: jnp.dtype) -> NamedArray:
    """Random values, drawn in float32, so that every type starts from the same numbers.

    The axes of a group are drawn as one dimension. Parameters with the same three sizes then share one compiled
    generator. The compilation of an initialisation spends its time on generators, most of all on those with many
    dimensions.

    Args:
        draw: Gives values of a shape.
        groups: Groups of axes.
        dtype: Type of the result.
    """
    axes = [axis for group in groups for axis in group]
    values = draw([math.prod(axis.size for axis in group) for group in groups])
    return hax.named(values.astype(dtype).reshape([axis.size for axis in axes]), axes)


def normal(key: PRNGKeyArray, *groups: tuple[Axis, ...], std: float, dtype: jnp.dtype) -> NamedArray:
    """Normally distributed values with mean 0; see `drawn`."""
    return drawn(lambda shape: jax.random.normal(key, shape, jnp.float32) * std, *groups, dtype=dtype)


def uniform(key: PRNGKeyArray, *groups: tuple[Axis, ...], within: tuple[float, float], dtype: jnp.dtype) -> NamedArray:
    """Uniformly distributed values; see `drawn`."""
    return drawn(lambda shape: jax.random.uniform(key, shape, jnp.float32, *within), *groups, dtype=dtype)


def contract(
    x: NamedArray,
    y: NamedArray | Coded,
    axis: AxisSelection,
    *,
    into: DTypeLike | None = None,
    order: tuple[Axis, ...] | None = None,
) -> NamedArray:
    """``x . y``, with `y` cast to the type of `x`.

    Products of float32 use full precision on every platform; by default, TPUs and GPUs would round the factors.

    Args:
        x: Activations.
        y: A parameter, or activations.
        axis: The axis or axes to sum over.
        into: Type of the result. Default: that of `x`. Sums are at least float32.
        order: Axes of the result. Default: those of `x`, then those of `y`.
    """
    y = y.astype(x.dtype)
    if (
        into is not None and jax.default_backend() == "cpu"
    ):  # on CPU, XLA has no product of narrow types with a wide result
        x, y = x.astype(into), y.astype(into)
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return hax.dot(x, y, axis=axis, precision=precision, preferred_element_type=into, out_axes=order)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def apply_weight(
    x: NamedArray, weight: NamedArray | Coded, inputs: tuple[Axis, ...], products: NarrowProducts | None = None
) -> NamedArray:
    """``x . weight`` summed over `inputs`, in the type of `x`. The gradient with respect to `weight` is a float32 sum;
    codes have none.

    Args:
        x: Activations.
        weight: A parameter.
        inputs: The axes to sum over.
        products: Type of the factors, also in the products for the gradients. None: that of `x`.
    """
    return product(products, "forward", x, weight, inputs)


def product(
    products: NarrowProducts | None,
    role: ProductRole,
    x: NamedArray,
    y: NamedArray | Coded,
    over: tuple[Axis, ...],
    *,
    into: DTypeLike | None = None,
    order: tuple[Axis, ...] | None = None,
) -> NamedArray:
    """`contract`, with narrow factors where `products` has them for this role; see `halcyon.models.parts.products`."""
    if products is None or not is_narrow(products, role):
        return contract(x, y, over, into=into, order=order)
    return narrow_dot(products, role, x, y.astype(x.dtype), over, into=x.dtype if into is None else into, order=order)


def _apply_weight_forward(
    x: NamedArray, weight: NamedArray | Coded, inputs: tuple[Axis, ...], products: NarrowProducts | None
) -> tuple[NamedArray, tuple[NamedArray, NamedArray | Coded]]:
    return product(products, "forward", x, weight, inputs), (x, weight)


def _apply_weight_backward(
    inputs: tuple[Axis, ...],
    products: NarrowProducts | None,
    arguments: tuple[NamedArray, NamedArray | Coded],
    cotangent: NamedArray,
) -> tuple[NamedArray, NamedArray | None]:
    x, weight = arguments
    outputs = tuple(axis for axis in weight.axes if axis not in inputs)
    if isinstance(weight, Coded):
        # A barrier, so that XLA cannot keep the decoded weight of the forward pass for this one.
        weight, cotangent = jax.lax.optimization_barrier((weight, cotangent))
        return divided(product(products, "inputs", cotangent, weight, outputs, order=x.axes)), None
    summed = tuple(axis for axis in x.axes if axis not in inputs)
    by_weight = product(products, "parameters", x, cotangent, summed, into=jnp.float32, order=weight.axes)
    by_x = product(products, "inputs", cotangent, weight, outputs, order=x.axes)
    return divided(by_x), by_weight.astype(weight.dtype)


apply_weight.defvjp(_apply_weight_forward, _apply_weight_backward)


def add_wide(x: NamedArray, y: NamedArray) -> NamedArray:
    """``x + y`` in float32, returned in the type of `x`. So the gradient of a broadcast `y` is a float32 sum."""
    return elementwise(lambda x, y: (x.astype(jnp.float32) + y.astype(jnp.float32)).astype(x.dtype), x, y)
