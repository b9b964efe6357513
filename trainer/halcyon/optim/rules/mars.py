"""MARS-AdamW with the gradient of the last step (Yuan et al. 2024, algorithm 2, the approximate version).

``c = g + gamma * beta1 / (1 - beta1) * (g - last g)``, scaled to a norm of at most 1, takes the place of the gradient
in AdamW. In the first step c is the gradient, because the paper begins with equal points.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from halcyon.optim.rule import Tree, descending, wide, zeros
from halcyon_api.spec.rules import MarsSpec


class MarsState(NamedTuple):
    """The state of Adam, and the last gradient."""

    steps: jax.Array
    mu: Tree
    nu: Tree
    last: Tree


def mars(rule: MarsSpec, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """AdamW of variance-reduced gradients. See `halcyon.optim.rule`."""
    adam = optax.scale_by_adam(rule.beta1, rule.beta2, rule.epsilon)
    scale = rule.gamma * rule.beta1 / (1 - rule.beta1)

    def init(params: Tree) -> MarsState:
        return MarsState(jnp.zeros((), jnp.int32), *(zeros(params) for _ in range(3)))

    def direct(gradients: Tree, state: MarsState, params: Tree, **further: Any) -> tuple[Tree, MarsState]:
        del params, further
        factor = jnp.where(state.steps > 0, scale, 0.0)
        reduced = jax.tree.map(lambda g, last: g + factor * (g - wide(last)), gradients, state.last)
        norm = optax.tree.norm(reduced)
        reduced = jax.tree.map(lambda c: c / jnp.maximum(1.0, norm), reduced)
        before = optax.ScaleByAdamState(state.steps, state.mu, state.nu)
        direction, after = adam.update(reduced, before)
        kept: Any = after
        return direction, MarsState(kept.count, kept.mu, kept.nu, gradients)

    return descending(init, direct, parameters)
