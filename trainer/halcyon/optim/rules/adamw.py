"""AdamW (Loshchilov and Hutter 2019).

All arithmetic is float32, whatever the types of parameters and moments: each update rounds a parameter, and a stored
moment, once. The learning rate is an argument of each update, so the reported rate is the rate in use, and a step with
a dropped update counts in the schedule. The state counts only the gradients in its moments, for their bias correction;
a dropped update changes neither count nor moments.

Three options change the update before learning rate and decay, in this order:

- ``clipUpdate`` scales the update of a parameter down to the limit of its root mean square (Shazeer and Stern 2018,
  section 6).
- ``cautious`` keeps the elements whose gradient has the sign of the update, and scales them by the inverse of their
  share in the parameter (Liang et al. 2024, algorithm 2).
- ``correctedDecay`` multiplies the decay by the rate over its peak (AdamC, Defazio 2025), but not for the head, which
  no norm follows.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from haliax import NamedArray

from halcyon.models.parameters import Parameter, Role
from halcyon.optim.rule import Inner, Scalar, Tree, decaying, each, finish, mean, transformation, wide, zeros
from halcyon_api.spec.rules import AdamWSpec

_LEAST_SHARE = 1e-3
"""The share by which a cautious update is divided is at least this, as in the paper's code."""


def adamw(rule: AdamWSpec, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """Adam with decoupled weight decay. See `halcyon.optim.rule`."""
    beta2, epsilon, decays, clip = rule.beta2, rule.epsilon, decaying(parameters), rule.clip_update

    def init(params: Tree) -> optax.ScaleByAdamState:
        first, second = (zeros(params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), first, second)

    def update(
        gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
    ) -> tuple[Tree, optax.ScaleByAdamState]:
        # A scheduled momentum is that of this step, also in the bias correction.
        beta1, count = further.get("momentum", rule.beta1), optax.safe_increment(state.count)
        first = mean(state.mu, gradients, beta1)
        second = jax.tree.map(lambda old, g: beta2 * old + (1 - beta2) * g * g, state.nu, gradients)
        first_share, second_share = 1 - beta1**count, 1 - beta2**count
        direction = jax.tree.map(lambda m, v: m / first_share / (jnp.sqrt(v / second_share) + epsilon), first, second)
        kept = optax.ScaleByAdamState(count, first, second)
        if clip is not None:
            direction = each(functools.partial(_clipped, clip), parameters, direction)
        if rule.cautious:
            direction = each(_cautious, parameters, direction, gradients)
        if rule.corrected_decay:
            direction = corrected(direction, params, weight_decay, learning_rate / further["peak_rate"])
            return finish(direction, params, learning_rate, 0.0, decays), kept
        return finish(direction, params, learning_rate, weight_decay, decays), kept

    def corrected(direction: Tree, params: Tree, weight_decay: Scalar, share: Scalar) -> Tree:
        """The direction and the decay of each parameter."""

        def one(parameter: Parameter, decays: bool, u: NamedArray, p: NamedArray) -> NamedArray:
            factor = weight_decay if parameter.role == Role.HEAD else weight_decay * share
            return NamedArray(u.array + factor * wide(p.array), u.axes) if decays else u

        return jax.tree.map(one, parameters, decays, direction, params)

    return transformation(init, update)


def _clipped(limit: float, inner: Inner, update: jax.Array) -> jax.Array:
    return update / jnp.maximum(1.0, inner.root_mean_square(update) / limit)


def _cautious(inner: Inner, update: jax.Array, gradient: jax.Array) -> jax.Array:
    kept = (update * gradient > 0).astype(jnp.float32)
    return update * kept / jnp.maximum(inner.mean(kept), _LEAST_SHARE)
