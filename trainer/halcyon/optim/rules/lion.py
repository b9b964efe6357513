"""Lion, evolved sign momentum (Chen et al. 2023, algorithm 2)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from halcyon.optim.rule import Scalar, Tree, decaying, finish, transformation, zeros
from halcyon_api.spec.rules.lion import LionSpec


def lion(rule: LionSpec, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """The sign of a mean of momentum and gradient. See `halcyon.optim.rule`."""
    decays = decaying(parameters)

    def init(params: Tree) -> optax.TraceState:
        return optax.TraceState(zeros(params))

    def update(
        gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
    ) -> tuple[Tree, optax.TraceState]:
        del further
        direction = jax.tree.map(lambda m, g: jnp.sign(rule.beta1 * m + (1 - rule.beta1) * g), state.trace, gradients)
        momentum = jax.tree.map(lambda m, g: rule.beta2 * m + (1 - rule.beta2) * g, state.trace, gradients)
        return finish(direction, params, learning_rate, weight_decay, decays), optax.TraceState(momentum)

    return transformation(init, update)
