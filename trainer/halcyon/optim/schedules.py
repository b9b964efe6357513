"""Schedules of learning rate, weight decay and momentum: pure functions of the step, so that a resumed run needs only its step count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.optim.phases import Batch, phases_rate
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.schedule import (
    ConstantScheduleSpec,
    CosineScheduleSpec,
    PhasesScheduleSpec,
    WsdScheduleSpec,
    steps_in,
)
from halcyon_api.spec.trainer import TrainerSpec


class LearningRate(Protocol):
    """The learning rate of a step, by the number of steps done before it."""

    def __call__(self, done: jax.typing.ArrayLike, /) -> jax.Array:
        """A float32 scalar."""
        ...


UpdateArguments = Callable[[jax.typing.ArrayLike], Mapping[str, jax.Array]]
"""Further arguments of an update, by the number of steps done before it."""


def learning_rate(spec: OptimizerSpec, steps: int, trainer: TrainerSpec | None = None) -> LearningRate:
    """The learning rate of a step as a function of the steps done before it.

    With ``n = done + 1`` and warm-up over ``w`` steps, the rate is the peak rate times

    - ``n / w`` for ``n <= w``; it is above 0 at the first step;
    - then, for ``constant``: 1;
    - for ``cosine`` (Loshchilov and Hutter 2017): ``r + (1 - r) (1 + cos(pi (n - w) / (D - w))) / 2`` until step ``D``, then the least
      ratio ``r``; ``D`` is ``decaySteps``, or the last step if that is not set;
    - for ``wsd`` (Hu et al. 2024): 1, and over the last ``d`` steps a line down to ``r``.

    `halcyon.optim.phases` has the formulas of ``phases``.

    Args:
        spec: ``spec.optimizer`` of the run.
        steps: ``spec.trainer.steps``.
        trainer: ``spec.trainer``, for the schedules that depend on batch sizes.

    Returns:
        A function of the number of steps done; a float32 scalar.

    Raises:
        ValueError: The schedule depends on batch sizes, and `trainer` is not given.
    """
    others = spec.other_schedules
    rule = others.rate_by_batch_size if others is not None else None
    if rule is None:
        return _rate(spec, steps, trainer)
    if trainer is None:
        raise ValueError("rateByBatchSize needs the batch sizes of the run")
    rate, factor = _rate(spec, steps, trainer), _batch_factor(trainer, 1.0 if rule == "linear" else 0.5)
    return lambda done: rate(done) * factor(done)


def update_arguments(spec: OptimizerSpec, steps: int) -> UpdateArguments:
    """The scheduled ``weight_decay`` and ``momentum`` of a step. A value without a schedule is not in the mapping.

    Args:
        spec: ``spec.optimizer`` of the run.
        steps: ``spec.trainer.steps``.
    """
    others, curves = spec.other_schedules, dict[str, Callable[[jax.typing.ArrayLike], jax.Array]]()
    if others is not None and (points := others.points_of("weight_decay")):
        curves["weight_decay"] = _through(points, steps, spec.weight_decay)
    if others is not None and others.weight_decay_shape == "cosine":
        curves["weight_decay"] = lambda done: 0.5 * spec.weight_decay * (1.0 + jnp.cos(math.pi * jnp.asarray(done, jnp.float32) / steps))
    if others is not None and (points := others.points_of("momentum")):
        curves["momentum"] = _through(points, steps)
    return lambda done: {name: curve(done) for name, curve in curves.items()}


def _through(points: Sequence[tuple[float, float]], steps: int, factor: float = 1.0) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """A curve of straight lines through the points; constant before the first and after the last one."""
    places = np.array([steps_in(place, steps) for place, _ in points], np.float32)
    values = np.array([factor * value for _, value in points], np.float32)
    return lambda done: jnp.interp(jnp.asarray(done, jnp.float32), places, values)


def _batch_factor(trainer: TrainerSpec, exponent: float) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """The batch size of a step over the first one, to a power: 1 for the linear rule (Goyal et al. 2017), 1/2 for the square root."""
    sizes, first_steps = [trainer.batch_size], [0]
    for entry in trainer.batch_schedule:
        sizes.append(entry.batch_size or sizes[-1])
        first_steps.append(entry.from_step)
    factors = np.array([(size / trainer.batch_size) ** exponent for size in sizes], np.float32)
    return lambda done: jnp.asarray(factors)[jnp.sum(jnp.asarray(done, jnp.int32) >= np.array(first_steps, np.int32)) - 1]


def _rate(spec: OptimizerSpec, steps: int, trainer: TrainerSpec | None) -> LearningRate:
    peak, schedule = spec.learning_rate, spec.schedule.value
    batch = Batch(trainer.batch_size, trainer.batch_size * trainer.sequence_length) if trainer is not None else None
    if isinstance(schedule, PhasesScheduleSpec):
        if schedule.shape == "power" and batch is None:
            raise ValueError("the shape power needs the batch of the run")
        return lambda done: phases_rate(schedule, steps, peak, batch, done)

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
