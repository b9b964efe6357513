"""Clipping of gradients by element and by output, before the clipping of their global norm.

Adaptive clipping (Brock et al. 2021, `arXiv 2102.06171 <https://arxiv.org/abs/2102.06171>`_, equation 3) limits the
gradient of each output of a linear map to a share of the norm of its weights. Optax finds the inputs of a map by the
number of axes; here they are declared.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.parameters import Parameter, Role
from halcyon.optim.rule import Tree, frobenius_norm, wide
from halcyon_api.spec.optimizer import ClipSpec

LEAST_WEIGHT_NORM = 1e-3
"""Weights count as at least this long, so that weights of zeros can grow (the paper's epsilon)."""
_TINY = 1e-6


def clipped(spec: ClipSpec | None, parameters: Any, gradients: Tree, params: Tree) -> Tree:
    """The gradients after the clipping of `spec`, element by element first.

    Args:
        spec: ``spec.optimizer.clip``. None: nothing is clipped.
        parameters: See `halcyon.optim.rule`.
        gradients: Float32 gradients.
        params: The parameters.
    """
    if spec is None:
        return gradients
    value, share = spec.value, spec.adaptive
    if value is not None:
        gradients = jax.tree.map(lambda g: jnp.clip(g, -value, value), gradients)
    if share is None:
        return gradients

    def one(parameter: Parameter, gradient: NamedArray, weight: NamedArray) -> NamedArray:
        axes = _of_one_output(parameter, gradient)
        limit = share * jnp.maximum(frobenius_norm(axes, wide(weight.array)), LEAST_WEIGHT_NORM)
        size = jnp.maximum(frobenius_norm(axes, gradient.array), _TINY)
        return NamedArray(gradient.array * jnp.minimum(1.0, limit / size), gradient.axes)

    return jax.tree.map(one, parameters, gradients, params)


def _of_one_output(parameter: Parameter, x: NamedArray) -> tuple[int, ...]:
    """The numbers of the axes of the weights of one output, of one token of a table, or of a whole vector."""
    table = parameter.role is Role.EMBEDDING or not parameter.inputs
    names = {axis.name for axis in (parameter.outputs if table else parameter.inputs)}
    return tuple(number for number, axis in enumerate(x.axes) if axis.name in names)
