"""AdEMAMix (Pagliardini et al. 2024, algorithm 1), by Optax, with the paper's schedules of alpha and beta3."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import scale_by_ademamix

from halcyon.optim.rule import of_optax
from halcyon_api.spec.rules import AdemamixSpec


def ademamix(rule: AdemamixSpec, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """Adam with a fast and a slow first moment. See `halcyon.optim.rule`."""
    beta3, alpha = _beta3(rule), _alpha(rule)
    return of_optax(
        scale_by_ademamix(rule.beta1, rule.beta2, beta3, alpha, rule.epsilon, mu_dtype=jnp.float32), parameters
    )


def _alpha(rule: AdemamixSpec) -> Any:
    if not rule.warmup_steps:
        return rule.alpha
    return lambda done: rule.alpha * jnp.minimum(1.0, (done + 1) / rule.warmup_steps)


def _beta3(rule: AdemamixSpec) -> Any:
    """Beta3 rises from beta1 so that the half-life of the slow moment grows evenly (the paper's appendix A.1)."""
    if not rule.warmup_steps or not rule.beta1 or not rule.beta3:
        return rule.beta3
    first, last = math.log(rule.beta1), math.log(rule.beta3)

    def at(done: jax.Array) -> jax.Array:
        share = jnp.minimum(1.0, (done + 1) / rule.warmup_steps)
        return jnp.minimum(jnp.exp(first * last / ((1 - share) * last + share * first)), rule.beta3)

    return at
