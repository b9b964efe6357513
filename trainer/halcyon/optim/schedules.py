"""Learning rates as pure functions of the step, so that a resumed run needs no state but its step count."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from halcyon_api.spec.optimizer import ConstantScheduleSpec, CosineScheduleSpec, OptimizerSpec, WsdScheduleSpec

LearningRate = Callable[[jax.typing.ArrayLike], jax.Array]
"""The learning rate of a step, by the number of steps done before it."""


def learning_rate(spec: OptimizerSpec, steps: int) -> LearningRate:
    """The learning rate of a step as a function of the steps done before it.

    With ``n = done + 1``, warm-up over ``w`` steps and ``N`` steps in all, the rate is the peak times

    - ``n / w`` while ``n <= w``: the line starts at 0 before the first step, so that even the first step learns;
    - then 1 (constant), or ``r + (1 - r) (1 + cos(pi (n - w) / (D - w))) / 2`` (cosine; Loshchilov and Hutter 2017), which is the
      least ratio ``r`` at step ``D``, the last one unless ``decaySteps`` says otherwise, and stays there; or 1 until the last ``d`` steps,
      and over those a line down to ``r`` (wsd; Hu et al. 2024).

    Args:
        spec: ``spec.optimizer`` of the run.
        steps: ``spec.trainer.steps``.

    Returns:
        A function of the number of steps done; a float32 scalar.
    """
    peak, schedule = spec.learning_rate, spec.schedule.value

    def rate(done: jax.typing.ArrayLike) -> jax.Array:
        number = jnp.asarray(done, jnp.float32) + 1.0
        match schedule:
            case ConstantScheduleSpec(warmup_steps=warmup):
                decayed = jnp.ones_like(number)
            case CosineScheduleSpec(warmup_steps=warmup, min_ratio=least, decay_steps=end):
                progress = jnp.clip((number - warmup) / max(1, (end or steps) - warmup), 0.0, 1.0)
                decayed = least + (1.0 - least) * 0.5 * (1.0 + jnp.cos(math.pi * progress))
            case WsdScheduleSpec(warmup_steps=warmup, decay_steps=decay, min_ratio=least):
                progress = jnp.clip((number - (steps - decay)) / decay, 0.0, 1.0)
                decayed = 1.0 - (1.0 - least) * progress
            case other:
                raise TypeError(f"no learning rate for a schedule of type {type(other).__name__}")
        return peak * jnp.where(number < warmup, number / max(1, warmup), decayed)

    return rate
