"""AdamH: Adam on the sphere of each matrix's norm (Wen et al. 2025, "Fantastic Pretraining Optimizers and Where to Find
Them 2.1").

With the direction u of Adam and the norm r of a matrix p, ``q = p - rate * r * u / |u|`` and the new matrix is ``r * q
/ |q|``. The norm does not change, so decay has no effect and there is none. The rate is ``matrixRate`` times the
learning rate. Embeddings, norms, biases, convolutions and adapters take AdamW's update. A matrix of zeros has no
direction and stays.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from haliax import NamedArray

from halcyon.models.parameters import PRODUCTS, Parameter, Role
from halcyon.optim.rule import Scalar, Tree, decaying, finish, frobenius_norm, inner_axes, transformation, wide, zeros
from halcyon_api.spec.rules import AdamHSpec

_ON_SPHERES = PRODUCTS - {Role.ADAPTER}
"""The roles of matrices of constant norm. An adapter begins with a matrix of zeros, which must grow."""
_LEAST_NORM = 1e-10


def adam_h(rule: AdamHSpec, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """Adam with matrices of constant norms. See `halcyon.optim.rule`."""
    decays = decaying(parameters)
    adam = optax.scale_by_adam(rule.beta1, rule.beta2, rule.epsilon)

    def init(params: Tree) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(params), zeros(params))

    def update(
        gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
    ) -> tuple[Tree, optax.ScaleByAdamState]:
        del further
        before = optax.ScaleByAdamState(state.count, state.mu, state.nu)
        direction, found = adam.update(gradients, before)
        after: Any = found
        plain = finish(direction, params, learning_rate, weight_decay, decays)

        def one(parameter: Parameter, u: NamedArray, p: NamedArray, otherwise: NamedArray) -> NamedArray:
            if parameter.role not in _ON_SPHERES:
                return otherwise
            axes, weight = inner_axes(p, parameter), wide(p.array)
            size = frobenius_norm(axes, weight)
            moved = weight - rule.matrix_rate * learning_rate * size * u.array / jnp.maximum(
                frobenius_norm(axes, u.array), _LEAST_NORM
            )
            return NamedArray(moved * (size / jnp.maximum(frobenius_norm(axes, moved), _LEAST_NORM)) - weight, p.axes)

        changes = jax.tree.map(one, parameters, direction, params, plain)
        return changes, optax.ScaleByAdamState(after.count, after.mu, after.nu)

    return transformation(init, update)
