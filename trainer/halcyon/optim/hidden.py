"""Joins a rule for hidden matrices with AdamW for all other parameters of its group, and the parts that such rules
share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import haliax as hax
import jax
import optax
from haliax import Axis, NamedArray

from halcyon.optim.matrices import Form, Matrices, hidden
from halcyon.optim.rule import Scalar, Tree, mean, merge, select, transformation, wide
from halcyon.optim.rules.adamw import adamw
from halcyon_api.spec.rules import AdamWSpec, MatricesSpec, Scaling

Build = Callable[[Matrices], optax.GradientTransformationExtraArgs]
"""Builds the rule of hidden matrices; see `halcyon.optim.rule`."""


class HiddenState(NamedTuple):
    """State of a rule for hidden matrices beside AdamW."""

    matrices: Any
    """State of the rule, for hidden matrices."""
    others: Any
    """State of AdamW, for all other parameters."""


def beside_adamw(
    build: Build, parameters: Tree, shared: MatricesSpec, rate: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    """A rule for hidden matrices, and AdamW for the other parameters.

    Args:
        build: Builds the rule of hidden matrices.
        parameters: See `halcyon.optim.rule`.
        shared: The settings that rules for hidden matrices share, with those of AdamW.
        rate: Factor of the learning rate of hidden matrices.
    """
    settings = shared.others
    of_adamw = AdamWSpec(beta1=settings.beta1, beta2=settings.beta2, epsilon=settings.epsilon)
    flags = hidden(parameters)
    against = jax.tree.map(lambda flag: not flag, flags)
    of_matrices = build(Matrices(select(parameters, flags)))
    of_others = adamw(of_adamw, select(parameters, against))

    def init(params: Tree) -> HiddenState:
        return HiddenState(of_matrices.init(select(params, flags)), of_others.init(select(params, against)))

    def update(
        gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, **arguments: Any
    ) -> tuple[Tree, HiddenState]:
        changes, matrices = of_matrices.update(
            select(gradients, flags),
            state.matrices,
            select(params, flags),
            learning_rate=learning_rate * rate,
            **arguments,
        )
        further, rest = of_others.update(
            select(gradients, against),
            state.others,
            select(params, against),
            learning_rate=learning_rate * settings.learning_rate,
            **arguments,
        )
        return merge([changes, further]), HiddenState(matrices, rest)

    return transformation(init, update)


def scale(form: Form, name: Scaling) -> float:
    """The factor of an orthogonal update; see `halcyon_api.spec.rules.Scaling`."""
    if name == "spectral":
        return math.sqrt(max(1.0, form.columns / form.rows))
    return 0.2 * math.sqrt(max(form.rows, form.columns))


def ahead(momentum: Tree, gradients: Tree, decay: Scalar) -> Tree:
    """The mean of gradients one step ahead: ``(1 - decay) gradient + decay momentum``, after the momentum was
    updated.
    """
    return mean(momentum, gradients, decay)


def decayed(direction: Tree, params: Tree, learning_rate: Scalar, weight_decay: Scalar, *, cautious: bool) -> Tree:
    """The change of each hidden matrix: ``-learning_rate (direction + weight_decay parameter)``.

    Args:
        direction: Float32 arrays with the structure of `params`.
        params: The matrices.
        learning_rate: The rate of this step.
        weight_decay: Decoupled weight decay.
        cautious: Decay an element only where the update and the decay have one sign (Chen et al. 2025, `arXiv
            2510.12402 <https://arxiv.org/abs/2510.12402>`_).
    """

    def one(leaf: jax.Array, weight: jax.Array) -> jax.Array:
        decay = wide(weight) * (leaf * wide(weight) >= 0) if cautious else wide(weight)
        return -learning_rate * (leaf + weight_decay * decay)

    return jax.tree.map(one, direction, params)


def norm(x: NamedArray, axes: tuple[Axis, ...]) -> NamedArray:
    """The square root of the sum of squares over some axes."""
    return hax.sqrt(hax.sum(hax.square(x), axes))


def of_matrix(form: Form) -> tuple[Axis, ...]:
    """The axes of one matrix, without those along which matrices are stacked."""
    return (*form.parameter.inputs, *form.parameter.outputs)
