"""Lion and Sophia: the momentum without the size of its elements, by its sign or over the curvature."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from halcyon.optim.rule import Given, Rule, Tree, descending, mean, zeros
from halcyon_api.spec.rules import LionSpec, SophiaSpec


def lion(rule: LionSpec, parameters: Any) -> Rule:
    """Lion, evolved sign momentum (Chen et al. 2023, algorithm 2): the sign of a mean of momentum and gradient. See
    `halcyon.optim.rule`.

    Optax's Lion gives the same bits, but its state has a count of steps and another name in checkpoints.
    """

    def direct(state: Any, given: Given) -> tuple[Tree, optax.TraceState]:
        direction = jax.tree.map(jnp.sign, mean(state.trace, given.gradients, rule.beta1))
        return direction, optax.TraceState(mean(state.trace, given.gradients, rule.beta2))

    return descending(lambda params: optax.TraceState(zeros(params)), direct, parameters)


_GAMMA = {"gaussNewton": 0.05, "hutchinson": 0.01}


class SophiaState(NamedTuple):
    """Momentum, and the mean of the estimates."""

    momentum: Tree
    hessian: Tree


def sophia(rule: SophiaSpec, parameters: Any) -> Rule:
    """Sophia (Liu et al. 2023, algorithm 3): clipped momentum over curvature. See `halcyon.optim.rule`.

    Every k steps the step of the run estimates the diagonal of the Hessian (`halcyon.step.curvature`). A moving average
    h of the estimates divides the momentum, and the quotient is clipped to 1. Optax's Sophia corrects the momentum for
    its start, and divides by the average before the estimate of the same step; the algorithm of the paper does neither.

    ``update`` also takes ``curvature``, a function without arguments that returns the estimate of this step, a tree
    like the model. It is called once, inside ``jax.lax.cond``.
    """
    gamma = rule.gamma if rule.gamma is not None else _GAMMA[rule.estimator]

    def direct(state: SophiaState, given: Given) -> tuple[Tree, SophiaState]:
        if (estimate := given.curvature) is None:
            raise TypeError("sophia needs the argument curvature, an estimate of the Hessian's diagonal")
        momentum = mean(state.momentum, given.gradients, rule.beta1)

        hessian = jax.lax.cond(
            jnp.asarray(given.step) % rule.every_steps == 0,
            lambda old: mean(old, estimate(), rule.beta2),
            lambda old: old,
            state.hessian,
        )
        direction = jax.tree.map(
            lambda m, h: jnp.clip(m / jnp.maximum(gamma * h, rule.epsilon), -1.0, 1.0), momentum, hessian
        )
        return direction, SophiaState(momentum, hessian)

    return descending(lambda params: SophiaState(zeros(params), zeros(params)), direct, parameters)
