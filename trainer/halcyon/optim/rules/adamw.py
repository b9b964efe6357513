"""AdamW (Loshchilov and Hutter 2019).

All arithmetic is float32, whatever the types of parameters and moments: each update rounds a parameter, and a stored moment, once. The
learning rate is an argument of each update, so the reported rate is the rate in use, and a step with a dropped update counts in the
schedule. The state counts only the gradients in its moments, for their bias correction; a dropped update changes neither count nor moments.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from halcyon.optim.rule import Scalar, Tree, decaying, finish, stored, transformation, wide, zeros
from halcyon_api.spec.rules.adamw import AdamWSpec


def adamw(rule: AdamWSpec, parameters: Any, moments: jnp.dtype) -> optax.GradientTransformationExtraArgs:
    """Adam with decoupled weight decay. See `halcyon.optim.rule`."""
    beta2, epsilon, decays = rule.beta2, rule.epsilon, decaying(parameters)

    def init(params: Tree) -> optax.ScaleByAdamState:
        first, second = (zeros(params, moments) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), first, second)

    def update(
        gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
    ) -> tuple[Tree, optax.ScaleByAdamState]:
        # A scheduled momentum is that of this step, also in the bias correction.
        beta1, count = further.get("momentum", rule.beta1), optax.safe_increment(state.count)
        first = jax.tree.map(lambda old, g: beta1 * wide(old) + (1 - beta1) * g, state.mu, gradients)
        second = jax.tree.map(lambda old, g: beta2 * wide(old) + (1 - beta2) * g * g, state.nu, gradients)
        first_share, second_share = 1 - beta1**count, 1 - beta2**count
        direction = jax.tree.map(lambda m, v: m / first_share / (jnp.sqrt(v / second_share) + epsilon), first, second)
        kept = optax.ScaleByAdamState(count, stored(first, moments), stored(second, moments))
        return finish(direction, params, learning_rate, weight_decay, decays), kept

    return transformation(init, update)
