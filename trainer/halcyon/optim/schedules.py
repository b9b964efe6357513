"""Learning rate schedules: pure functions of the step, so that a resumed run needs only its step count."""

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

    With ``n = done + 1`` and warm-up over ``w`` steps, the rate is the peak rate times

    - ``n / w`` for ``n <= w``; it is above 0 at the first step;
    - then, for ``constant``: 1;
    - for ``cosine`` (Loshchilov and Hutter 2017): ``r + (1 - r) (1 + cos(pi (n - w) / (D - w))) / 2`` until step ``D``, then the least
      ratio ``r``; ``D`` is ``decaySteps``, or the last step if that is not set;
    - for ``wsd`` (Hu et al. 2024): 1, and over the last ``d`` steps a line down to ``r``.

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
