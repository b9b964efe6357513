"""The learning rate of ``spec.optimizer.schedule.phases``: cycles of warm-up, stable phase and decay.

The step finds its cycle in a small table of constants, so that the compiled program has the same size for any number of cycles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from halcyon_api.schedules import Cycle, cycles_of
from halcyon_api.spec.schedule import PhasesScheduleSpec

_TIMESCALE = 10_000.0
_AMPLITUDE = 4.6
_EXPONENTS = {"polynomial": 2.0, "power": -0.51}


@dataclass(frozen=True)
class Batch:
    """The first batch of the run, on which the shape `power` depends."""

    sequences: int
    tokens: int


def phases_rate(spec: PhasesScheduleSpec, steps: int, peak: float, batch: Batch | None, done: jax.typing.ArrayLike) -> jax.Array:
    """The learning rate of a step.

    With ``t`` steps since the beginning of a cycle, the rate is

    - over the warm-up ``w``: a line from 0, or in later cycles from the rate at the end of the cycle before, to the peak rate;
    - in the stable phase: the peak rate;
    - in the decay: `decayed`.

    As in optax, the first step has the rate at 0: a warm-up begins with rate 0.

    Args:
        spec: ``spec.optimizer.schedule.phases``.
        steps: ``spec.trainer.steps``.
        peak: ``spec.optimizer.learningRate``.
        batch: Needed for the shape `power` only.
        done: Steps done before this one.

    Returns:
        A float32 scalar.
    """
    cycles = cycles_of(spec, steps)
    table = {name: np.array([getattr(cycle, name) for cycle in cycles], np.int32) for name in ("start", "warmup", "decay", "steps")}
    ends = [float(decayed(spec, cycle.decay, cycle, peak, batch, np)) if cycle.decay else peak for cycle in cycles]
    first_rates = np.array([0.0, *ends[:-1]], np.float32)
    number = jnp.asarray(done, jnp.int32)
    row = jnp.sum(number >= jnp.asarray(table["start"])) - 1
    present: Any = [jnp.asarray(table[name])[row] for name in ("start", "warmup", "decay", "steps")]
    start, warmup, decay, length = present
    first = jnp.asarray(first_rates)[row]
    since = number - start
    warming = first + (peak - first) * since.astype(jnp.float32) / jnp.maximum(warmup, 1)
    since_decay = jnp.maximum(since - (length - decay), 0)
    falling = decayed(spec, since_decay, Cycle(start, length, warmup, decay), peak, batch)
    after = jnp.where((decay > 0) & (since >= length - decay), falling, peak)
    return jnp.where(since < warmup, warming, after).astype(jnp.float32)


def decayed(
    spec: PhasesScheduleSpec, since: jax.typing.ArrayLike, cycle: Cycle, peak: float, batch: Batch | None, xp: Any = jnp
) -> jax.Array:
    """The learning rate after ``t`` steps of a decay that has ``T`` steps. ``r`` is `minRatio`, and ``x`` is ``t / T``, at most 1.

    - ``constant``: the peak rate;
    - ``linear``: ``1 - (1 - r) x`` times the peak rate;
    - ``cosine`` (Loshchilov and Hutter 2017): ``r + (1 - r) ((1 + cos(pi x)) / 2)^exponent``;
    - ``squareRoot`` (Hägele et al. 2024): ``1 - (1 - r) sqrt(x)``;
    - ``polynomial``: ``r + (1 - r) (1 - x)^exponent``;
    - ``exponential``: ``r^x``;
    - ``inverse``: ``1 / (1 + (1 / r - 1) max(t, 1) / T)``, at least ``r``;
    - ``inverseSquareRoot`` (Vaswani et al. 2017): ``sqrt(scale / max(t + w, 1))`` with the warm-up ``w``, at most 1, at least ``r``;
    - ``power`` (Shen et al. 2024): the rate is ``scale * batch size * tokens^exponent``, at most the peak rate. The tokens count from the
      beginning of the decay.

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
        case "power":
            if batch is None:
                raise ValueError("the shape power needs the batch of the run")
            tokens = xp.maximum(passed, 1e-6) * batch.tokens
            return xp.minimum(peak, batch.sequences * (spec.scale or _AMPLITUDE) * tokens**exponent)
    return peak * share
