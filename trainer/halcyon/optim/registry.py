"""Builds the update rule of ``spec.optimizer``."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from halcyon.models import CausalLM
from halcyon.optim.adamw import adamw
from halcyon.optim.groups import decays
from halcyon_api.spec.optimizer import OptimizerSpec


def build_optimizer(spec: OptimizerSpec, model: CausalLM, moments: DTypeLike = jnp.float32) -> optax.GradientTransformationExtraArgs:
    """The update rule of a run.

    ``update`` takes the keyword argument ``learning_rate``, a float32 scalar, and returns float32 updates. The state is a deterministic
    tree of arrays. Each moment has the axes of its parameter, so that `halcyon.parallel.axes.shardings` gives both the same sharding.

    Args:
        spec: ``spec.optimizer`` of the run.
        model: The model, or its shapes; gives the roles of the parameters.
        moments: Type in which the moments are stored.
    """
    if spec.adamw is None:
        raise TypeError(f"no update rule for an optimizer of kind {spec.kind}")
    return adamw(spec, spec.adamw, decays(model), jnp.dtype(moments))
