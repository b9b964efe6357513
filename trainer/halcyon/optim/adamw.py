"""AdamW (Loshchilov and Hutter 2019) from a spec."""

from __future__ import annotations

from typing import Any

import jax
import optax

from halcyon.models.causal_lm import CausalLM
from halcyon.models.roles import Role, roles
from halcyon.optim.schedule import learning_rate
from halcyon_api.spec.optimizer import OptimizerSpec


def build_optimizer(spec: OptimizerSpec, steps: int, model: CausalLM) -> optax.GradientTransformation:
    """The update rule: clip the global norm, Adam, decoupled decay of matrices, learning rate.

    The state is a tree of arrays, deterministic, in the type of the parameters, and each moment has the axes of its parameter, so
    that `halcyon.parallel.axes.shardings` shards it alike. The learning rate is a function of the step count in it.

    Args:
        spec: ``spec.optimizer`` of the run.
        steps: ``spec.trainer.steps``.
        model: The model, or its shapes: tells which parameters are matrices.
    """
    adamw = spec.adamw
    if adamw is None:
        raise TypeError(f"no update rule for an optimizer of kind {spec.kind}")
    clip = optax.clip_by_global_norm(adamw.max_gradient_norm) if adamw.max_gradient_norm else optax.identity()
    return optax.chain(
        clip,
        optax.scale_by_adam(b1=adamw.beta1, b2=adamw.beta2, eps=adamw.epsilon),
        optax.add_decayed_weights(adamw.weight_decay, mask=decays(model)),
        optax.scale_by_learning_rate(learning_rate(spec, steps)),
    )


def decays(model: CausalLM) -> Any:
    """Which parameters decay: `model` with a bool in the place of each NamedArray."""
    return jax.tree.map(lambda role: role is Role.MATRIX, roles(model))
