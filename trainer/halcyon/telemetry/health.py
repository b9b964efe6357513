"""The health of a trainer, decided by the time since a step or a stage last ended.

A hung collective looks like work: the process runs and the device is busy, but no step ends. So while a run trains, it
is healthy only if steps end within a limit, which is computed from earlier steps of the same size. A step of a new size
may wait for the compilation of its program, so it has the same limit as the first step. Time in which the machine was
paused, or in which the process retries a store that denies access, does not count. Every other stage has a generous
limit of its own: the durations of compilation, restore and join vary much, and their failures raise errors of their
own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from halcyon_api.status.progress import Stage


def _stage_limits() -> dict[Stage, float]:
    return {
        "starting": 900.0,
        "joining": 3600.0,
        # from the last part of the text that this process has tokenized; another process may tokenize all text
        "tokenizing": 7200.0,
        "restoring": 7200.0,
        "compiling": 7200.0,
        "evaluating": 7200.0,  # in a run that only evaluates, from its last batch
        "saving": 7200.0,
        "leaving": 7200.0,  # the last save
        "done": math.inf,
    }


@dataclass(frozen=True)
class HealthLimits:
    """Limits of the time without a progress, in seconds."""

    stages: Mapping[Stage, float] = field(default_factory=_stage_limits)
    """For every stage except ``training``, from the beginning of the stage."""
    floor_seconds: float = 60.0
    """The smallest limit of a step: every machine pauses now and then."""
    ceiling_seconds: float = 3600.0
    """The largest limit of a step, unless `floor_seconds` is larger."""
    factor: float = 10.0
    """The limit of a step is this times the 99th percentile of the recorded steps of the same size."""


@dataclass(frozen=True)
class HealthInputs:
    """The inputs of `judge`. Times are of one monotonic clock, in seconds."""

    stage: Stage
    stage_began: float
    last_step_ended: float | None
    step_seconds: Sequence[Sequence[float]]
    """For each size of the steps that may be in progress, durations of the last steps of that size, in any order; empty
    for a new size.
    """
    paused_seconds: float = 0.0
    """Time that the machine was paused since a step or a stage last ended."""
    waits_until: float | None = None
    """End of the retries of a store that denies access; None: there are no such retries."""


@dataclass(frozen=True)
class Health:
    """The verdict on a process."""

    healthy: bool
    idle_seconds: float
    """Time since a step or a stage last ended, without pauses."""
    limit_seconds: float
    """Limit of `idle_seconds`; above it the process is not healthy."""
    message: str
    """One sentence for people."""


def step_limit_seconds(step_seconds: Sequence[float], limits: HealthLimits) -> float:
    """The limit of a step: a multiple of the 99th percentile (nearest rank) of the durations so far, between floor and
    ceiling.
    """
    ranked = sorted(step_seconds)
    percentile = ranked[math.ceil(0.99 * len(ranked)) - 1] if ranked else 0.0
    return min(max(limits.floor_seconds, limits.factor * percentile), max(limits.floor_seconds, limits.ceiling_seconds))


def judge(vitals: HealthInputs, now: float, limits: HealthLimits) -> Health:
    """Decide whether the trainer is healthy at ``now``."""
    began = vitals.stage_began
    if vitals.stage != "training":
        limit = limits.stages[vitals.stage]
        what = f"{vitals.stage} for"
    elif vitals.last_step_ended is None:
        # The first step traces and compiles, also in the stage ``training``.
        limit = limits.stages["compiling"]
        what = "no first step for"
    else:
        began = max(began, vitals.last_step_ended)
        known = vitals.step_seconds
        new_size = not known or not all(known)
        limit = (
            limits.stages["compiling"] if new_size else max(step_limit_seconds(seconds, limits) for seconds in known)
        )
        what = "no step of a new size ended for" if new_size else "no step ended for"
    if vitals.waits_until is not None:
        began = max(began, min(now, vitals.waits_until))
    idle = max(0.0, now - began - vitals.paused_seconds)
    healthy = idle <= limit
    bound = "no limit" if math.isinf(limit) else f"limit {limit:.1f} s"
    return Health(healthy, idle, limit, f"{'ok' if healthy else 'stalled'}: {what} {idle:.1f} s, {bound}")
