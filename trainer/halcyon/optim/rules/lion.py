"""Lion, evolved sign momentum (Chen et al. 2023, algorithm 2)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from halcyon.optim.rule import Tree, descending, mean, zeros
from halcyon_api.spec.rules import LionSpec


def lion(rule: LionSpec, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """The sign of a mean of momentum and gradient. See `halcyon.optim.rule`."""

    def direct(gradients: Tree, state: Any, params: Tree, **further: Any) -> tuple[Tree, optax.TraceState]:
        del params, further
        direction = jax.tree.map(jnp.sign, mean(state.trace, gradients, rule.beta1))
        return direction, optax.TraceState(mean(state.trace, gradients, rule.beta2))

    return descending(lambda params: optax.TraceState(zeros(params)), direct, parameters)
