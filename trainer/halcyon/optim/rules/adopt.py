"""ADOPT (Taniguchi et al. 2024, algorithm 2, with the clipping of its appendix), by Optax. The first step only makes the second moment."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from optax.contrib import scale_by_adopt

from halcyon.optim.rule import of_optax
from halcyon_api.spec.rules.adam_variants import AdoptSpec


def adopt(rule: AdoptSpec, parameters: Any, moments: jnp.dtype) -> optax.GradientTransformationExtraArgs:
    """Adam whose second moment does not contain the gradient that it divides. See `halcyon.optim.rule`."""
    return of_optax(scale_by_adopt(rule.beta1, rule.beta2, rule.epsilon, mu_dtype=moments), parameters)
