"""Schedules of learning rate, weight decay and momentum: pure functions of the step, so that a resumed run needs only
its step count.

The learning rate goes in cycles of warm-up, stable phase and decay. The step finds its cycle in a small table of
constants, so that the compiled program has the same size for any number of cycles.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from halcyon_api.schedules import Cycle, as_phases
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.schedule import PhasesScheduleSpec, steps_in
from halcyon_api.spec.trainer import TrainerSpec

_TIMESCALE = 10_000.0
_DROP = 28.6
_AMPLITUDE = 4.6
_EXPONENTS = {"polynomial": 2.0, "power": -0.51}


Curve = Callable[[jax.typing.ArrayLike], jax.Array]
"""A number of a step, by the number of steps done before it: a float32 scalar."""
UpdateArguments = Callable[[jax.typing.ArrayLike], Mapping[str, jax.Array]]
"""Further arguments of an update, by the number of steps done before it."""


def learning_rate(spec: OptimizerSpec, trainer: TrainerSpec) -> Curve:
    """The learning rate of a step as a function of the steps done before it.

    With ``t`` steps from the beginning of a cycle to the step, the rate is

    - over the warm-up ``w``: a line from 0, or in later cycles from the rate at the end of the cycle before, to the
      peak rate;
    - in the stable phase: the peak rate;
    - in the decay: `_decayed`.

    The first step of a cycle has ``t = 0`` with `firstRate` ``atStart``, as in optax, and ``t = 1`` with
    ``afterOneStep``.

    Args:
        spec: ``spec.optimizer`` of the run.
        trainer: ``spec.trainer`` of the run.

    Returns:
        A function of the number of steps done; a float32 scalar.
    """
    others = spec.other_schedules
    rule = others.rate_by_batch_size if others is not None else None
    rate = _rate(*as_phases(spec.schedule, trainer.steps), spec.learning_rate, trainer)
    if rule is None:
        return rate
    factor = _batch_factor(trainer, 1.0 if rule == "linear" else 0.5)
    return lambda done: rate(done) * factor(done)


def update_arguments(spec: OptimizerSpec, steps: int) -> UpdateArguments:
    """The scheduled ``weight_decay`` and ``momentum`` of a step. A value without a schedule is not in the mapping.

    Args:
        spec: ``spec.optimizer`` of the run.
        steps: ``spec.trainer.steps``.
    """
    curves: dict[str, Curve] = {}
    if (others := spec.other_schedules) is not None:
        if points := others.points_of("weight_decay"):
            curves["weight_decay"] = _through(points, steps, spec.weight_decay)
        if others.weight_decay_shape == "cosine":
            curves["weight_decay"] = lambda done: (
                0.5 * spec.weight_decay * (1.0 + jnp.cos(math.pi * jnp.asarray(done, jnp.float32) / steps))
            )
        if points := others.points_of("momentum"):
            curves["momentum"] = _through(points, steps)
    return lambda done: {name: curve(done) for name, curve in curves.items()}


def _through(points: Sequence[tuple[float, float]], steps: int, factor: float = 1.0) -> Curve:
    """A curve of straight lines through the points; constant before the first and after the last one."""
    places = np.array([steps_in(place, steps) for place, _ in points], np.float32)
    values = np.array([factor * value for _, value in points], np.float32)
    return lambda done: jnp.interp(jnp.asarray(done, jnp.float32), places, values)


def _batch_factor(trainer: TrainerSpec, exponent: float) -> Curve:
    """The batch size of a step over the first one, to a power: 1 for the linear rule (Goyal et al. 2017), 1/2 for
    the square root.
    """
    sizes, first_steps = [trainer.batch_size], [0]
    for entry in trainer.batch_schedule:
        sizes.append(entry.batch_size or sizes[-1])
        first_steps.append(entry.from_step)
    factors = np.array([(size / trainer.batch_size) ** exponent for size in sizes], np.float32)
    return lambda done: jnp.asarray(factors)[
        jnp.sum(jnp.asarray(done, jnp.int32) >= np.array(first_steps, np.int32)) - 1
    ]


def _rate(spec: PhasesScheduleSpec, cycles: Sequence[Cycle], peak: float, trainer: TrainerSpec) -> Curve:
    """The learning rate on cycles of phases; `peak` is ``spec.optimizer.learningRate``."""
    table = [np.array(column, np.int32) for column in zip(*cycles, strict=True)]
    lasts = [float(_decayed(spec, cycle.decay, cycle, peak, trainer, np)) if cycle.decay else peak for cycle in cycles]
    firsts = np.array([0.0, *lasts[:-1]], np.float32)
    at_start = spec.first_rate == "atStart"

    def rate(done: jax.typing.ArrayLike) -> jax.Array:
        number = jnp.asarray(done, jnp.int32)
        row = jnp.sum(number >= jnp.asarray(table[0])) - 1
        columns: Any = [jnp.asarray(column)[row] for column in table]
        cycle, first = Cycle(*columns), jnp.asarray(firsts)[row]
        since = number - cycle.start + (0 if at_start else 1)
        climbed, warmup = since.astype(jnp.float32), jnp.maximum(cycle.warmup, 1)
        # Where the line is divided decides the last bit of its rates, and a run that goes on needs the same bits.
        warming = first + ((peak - first) * climbed / warmup if at_start else (peak - first) * (climbed / warmup))
        stable = cycle.steps - cycle.decay
        falling = _decayed(spec, jnp.maximum(since - stable, 0), cycle, peak, trainer)
        after = jnp.where((cycle.decay > 0) & (since >= stable), falling, peak)
        return jnp.where(since < cycle.warmup, warming, after).astype(jnp.float32)

    return rate


def _decayed(
    spec: PhasesScheduleSpec,
    since: jax.typing.ArrayLike,
    cycle: Cycle,
    peak: float,
    trainer: TrainerSpec,
    xp: Any = jnp,
) -> jax.Array:
    """The learning rate after ``t`` steps of a decay that has ``T`` steps. ``r`` is `minRatio`, and ``x`` is ``t / T``,
    at most 1.

    - ``constant``: the peak rate;
    - ``linear``: ``1 - (1 - r) x`` times the peak rate;
    - ``cosine`` (Loshchilov and Hutter 2017): ``r + (1 - r) ((1 + cos(pi x)) / 2)^exponent``;
    - ``squareRoot`` (Hägele et al. 2024): ``1 - (1 - r) sqrt(x)``;
    - ``polynomial``: ``r + (1 - r) (1 - x)^exponent``;
    - ``exponential``: ``r^x``;
    - ``inverse``: ``1 / (1 + (1 / r - 1) max(t, 1) / T)``, at least ``r``;
    - ``inverseSquareRoot`` (Vaswani et al. 2017): ``sqrt(scale / max(t + w, 1))`` with the warm-up ``w``, at most 1, at
      least ``r``;
    - ``inverseSquareRootDecay``: ``1 / sqrt(1 + scale t / T)``, at least ``r``;
    - ``power`` (Shen et al. 2024): the rate is ``scale * batch size * tokens^exponent``, at most the peak rate. The
      tokens count from the beginning of the decay.

    `xp` is the library that computes: numpy for a value that is a constant of the compiled program.
    """
    passed = xp.asarray(since, xp.float32)
    length = xp.maximum(xp.asarray(cycle.decay, xp.float32), 1.0)
    x, least = xp.clip(passed / length, 0.0, 1.0), spec.min_ratio
    exponent = spec.exponent if spec.exponent is not None else _EXPONENTS.get(spec.shape, 1.0)
    match spec.shape:
        case "constant":
            share = xp.ones_like(x)
        case "linear":
            share = 1.0 - (1.0 - least) * x
        case "cosine":
            share = least + (1.0 - least) * (0.5 * (1.0 + xp.cos(math.pi * x))) ** exponent
        case "squareRoot":
            share = 1.0 - (1.0 - least) * xp.sqrt(x)
        case "polynomial":
            share = least + (1.0 - least) * (1.0 - x) ** exponent
        case "exponential":
            share = xp.exp(x * math.log(least))
        case "inverse":
            share = xp.maximum(1.0 / (1.0 + (1.0 / least - 1.0) * xp.maximum(passed, 1.0) / length), least)
        case "inverseSquareRoot":
            counted = xp.maximum(passed + xp.asarray(cycle.warmup, xp.float32), 1.0)
            share = xp.clip(xp.sqrt((spec.scale or _TIMESCALE) / counted), least, 1.0)
        case "inverseSquareRootDecay":
            share = xp.maximum(1.0 / xp.sqrt(1.0 + (spec.scale or _DROP) * passed / length), least)
        case "power":
            tokens = xp.maximum(passed, 1e-6) * (trainer.batch_size * trainer.sequence_length)
            return xp.minimum(peak, trainer.batch_size * (spec.scale or _AMPLITUDE) * tokens**exponent)
    return peak * share
