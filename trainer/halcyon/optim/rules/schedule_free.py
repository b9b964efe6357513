"""Schedule-free AdamW (Defazio et al. 2024, algorithm 1), by Optax.

The parameters of the run are the points y, at which the gradients are computed. The state has the points z. `averaged`
gives the points x, which are the result of the training: y is ``beta1 * x + (1 - beta1) * z``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import schedule_free as around

from halcyon.optim.rule import Scalar, Tree, decaying, finish, transformation, wide
from halcyon_api.spec.rules import ScheduleFreeSpec


def schedule_free(rule: ScheduleFreeSpec, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """AdamW without first moment, at a point between its own one and the mean of its points.

    See `halcyon.optim.rule`.
    """
    decays = decaying(parameters)
    second = optax.scale_by_rms(rule.beta2, rule.epsilon, eps_in_sqrt=False, bias_correction=True)

    def wrapped(learning_rate: Scalar, weight_decay: Scalar) -> optax.GradientTransformationExtraArgs:
        def step(updates: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
            direction, state = second.update(updates, state)
            return finish(direction, params, learning_rate, weight_decay, decays), state

        inner = optax.GradientTransformation(second.init, step)
        return around(inner, learning_rate, b1=rule.beta1, state_dtype=jnp.float32)  # pyright: ignore[reportArgumentType]

    def init(params: Tree) -> Any:
        return wrapped(0.0, 0.0).init(jax.tree.map(wide, params))

    def update(
        gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
    ) -> tuple[Tree, Any]:
        del further
        return wrapped(learning_rate, weight_decay).update(gradients, state, jax.tree.map(wide, params))

    return transformation(init, update)


def averaged(rule: ScheduleFreeSpec, state: Any, params: Tree) -> Tree:
    """The points x, in the types of the parameters."""
    beta1 = rule.beta1
    return jax.tree.map(lambda y, z: ((wide(y) - (1 - beta1) * z) / beta1).astype(y.dtype), params, state.z)
