"""Adafactor (Shazeer and Stern 2018, algorithms 4 and 5) without a first moment.

Optax factors the two largest axes of an array, whatever they mean. Here the factors are the means over the outputs and
over the inputs of a linear map, one for each stacked map, and have the remaining axes of the parameter. So they are
sharded like the parameter.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from haliax import NamedArray

from halcyon.models.axes import is_named
from halcyon.models.parameters import Parameter
from halcyon.optim.rule import (
    Given,
    Inner,
    Rule,
    Tree,
    descending,
    each,
    mean_of_rest,
    spread,
    wide,
    without_axes,
    zeros_over,
)
from halcyon_api.spec.rules import AdafactorSpec


class AdafactorState(NamedTuple):
    """Second moments. A parameter has either both factors, or the whole."""

    steps: jax.Array
    by_input: Tree
    """Means over the outputs."""
    by_output: Tree
    """Means over the inputs."""
    whole: Tree


class _Moments(NamedTuple):
    """Of one parameter: both factors, or the whole; the others are None."""

    by_input: Any
    by_output: Any
    whole: Any


def adafactor(rule: AdafactorSpec, parameters: Any) -> Rule:
    """Gradients over factored second moments, clipped, as a share of the size of the parameter.

    See `halcyon.optim.rule`.
    """

    def first(parameter: Parameter, x: NamedArray) -> _Moments:
        if not (parameter.inputs and parameter.outputs):
            return _Moments(None, None, zeros_over(x.axes))
        inputs, outputs = (zeros_over(without_axes(x, other)) for other in (parameter.outputs, parameter.inputs))
        return _Moments(inputs, outputs, None)

    def parted(tree: Tree) -> list[Tree]:
        return [
            jax.tree.map(lambda node, n=number: node[n], tree, is_leaf=lambda node: isinstance(node, _Moments))
            for number in range(3)
        ]

    def direct(state: AdafactorState, given: Given) -> tuple[Tree, AdafactorState]:
        steps: Any = optax.safe_increment(state.steps)
        beta = 1.0 - steps.astype(jnp.float32) ** -rule.decay_exponent

        def second(g: NamedArray, *old: NamedArray | None) -> _Moments:
            squares = NamedArray(g.array * g.array + rule.epsilon, g.axes)
            return _Moments(*(None if one is None else mean_of_rest(one, squares, beta) for one in old))

        def scaled(parameter: Parameter, g: NamedArray, found: _Moments) -> NamedArray:
            if found.whole is not None:
                return NamedArray(g.array / jnp.sqrt(found.whole.array), g.axes)
            rows, columns = spread(found.by_input, g), spread(found.by_output, g)
            inputs = {axis.name for axis in parameter.inputs}
            over = tuple(number for number, axis in enumerate(g.axes) if axis.name in inputs)
            return NamedArray(g.array / jnp.sqrt(rows * columns / jnp.mean(rows, axis=over, keepdims=True)), g.axes)

        new = jax.tree.map(second, given.gradients, *state[1:], is_leaf=is_named)
        direction = jax.tree.map(scaled, parameters, given.gradients, new)
        return each(clipped, parameters, direction, given.params), AdafactorState(steps, *parted(new))

    def clipped(inner: Inner, u: jax.Array, p: jax.Array) -> jax.Array:
        u = u / jnp.maximum(1.0, inner.root_mean_square(u) / rule.clip_update)
        return u * jnp.maximum(rule.least_size, inner.root_mean_square(wide(p)))

    return descending(
        lambda params: AdafactorState(jnp.zeros((), jnp.int32), *parted(jax.tree.map(first, parameters, params))),
        direct,
        parameters,
    )
