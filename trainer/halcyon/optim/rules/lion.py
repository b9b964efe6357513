"""Lion, evolved sign momentum (Chen et al. 2023, algorithm 2), by Optax."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

from halcyon.optim.rule import of_optax
from halcyon_api.spec.rules.lion import LionSpec


def lion(rule: LionSpec, parameters: Any, moments: jnp.dtype) -> optax.GradientTransformationExtraArgs:
    """The sign of a mean of momentum and gradient. See `halcyon.optim.rule`."""
    return of_optax(optax.scale_by_lion(rule.beta1, rule.beta2, mu_dtype=moments), parameters)
