"""ADOPT (Taniguchi et al. 2024, algorithm 2, with the clipping of its appendix), by Optax."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from optax.contrib import scale_by_adopt

from halcyon.optim.rule import Scalar, Tree, of_optax, transformation
from halcyon_api.spec.rules import AdoptSpec


def adopt(rule: AdoptSpec, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """Adam whose second moment does not contain the gradient that it divides. See `halcyon.optim.rule`.

    The first step only makes the second moment, and changes no parameter, also not by weight decay.
    """
    inner = of_optax(scale_by_adopt(rule.beta1, rule.beta2, rule.epsilon, mu_dtype=jnp.float32), parameters)

    def update(gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, **further: Any) -> tuple[Tree, Any]:
        begun = (state.count > 0).astype(jnp.float32)
        return inner.update(gradients, state, params, learning_rate=learning_rate * begun, **further)

    return transformation(inner.init, update)
