"""Whether a trainer is alive, judged by when something last ended.

A hung collective looks like work: the process is there, the device is busy, nothing ever ends. So while a run trains, it is healthy only
while steps keep ending, within a limit learned from its own steps of the same size. A step of a new size may wait for its program to be
compiled, so it has as long as the first one. Time in which the machine stood still, or in which a store is asked again that refuses
access, does not count. Every other stage has a generous limit of its own, because compiling,
restoring and waiting for peers take as long as they take and each has an error of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from halcyon_api.progress import Stage


def _stage_limits() -> dict[Stage, float]:
    return {
        "starting": 900.0,
        "joining": 3600.0,
        "tokenizing": 7200.0,  # from the last piece of text that this process has done; another one may do all of them
        "restoring": 7200.0,
        "compiling": 7200.0,
        "evaluating": 7200.0,  # in a run that only evaluates, from its last batch
        "saving": 7200.0,
        "leaving": 7200.0,  # the last save
        "done": math.inf,
    }


@dataclass(frozen=True)
class HealthLimits:
    """How long nothing may end, in seconds."""

    stages: Mapping[Stage, float] = field(default_factory=_stage_limits)
    """For every stage but ``training``, from the beginning of the stage."""
    floor_seconds: float = 60.0
    """A step always has this long: machines pause for reasons of their own."""
    ceiling_seconds: float = 3600.0
    """No step has longer than this."""
    factor: float = 10.0
    """Times the 99th percentile of the steps of the same size so far."""


@dataclass(frozen=True)
class Vitals:
    """What health is judged by. Times are of one monotonic clock, in seconds."""

    stage: Stage
    stage_began: float
    last_step_ended: float | None
    step_seconds: Sequence[Sequence[float]]
    """For each size of the steps that may be under way, durations of the last steps of that size, in any order; empty for a new size."""
    paused_seconds: float = 0.0
    """How long the machine stood still since something last ended."""
    waits_until: float | None = None
    """Until when a store that refuses access is asked again, if one is."""


@dataclass(frozen=True)
class Health:
    """A verdict."""

    healthy: bool
    idle_seconds: float
    """How long nothing has ended."""
    limit_seconds: float
    """How long that may be."""
    message: str
    """One sentence for people."""


def step_limit_seconds(step_seconds: Sequence[float], limits: HealthLimits) -> float:
    """How long a step may take after those so far: a multiple of their 99th percentile (nearest rank), inside floor and ceiling."""
    ranked = sorted(step_seconds)
    percentile = ranked[math.ceil(0.99 * len(ranked)) - 1] if ranked else 0.0
    return min(max(limits.floor_seconds, limits.factor * percentile), max(limits.floor_seconds, limits.ceiling_seconds))


def judge(vitals: Vitals, now: float, limits: HealthLimits) -> Health:
    """Decide whether the trainer is alive at ``now``."""
    began = vitals.stage_began
    if vitals.stage != "training":
        limit = limits.stages[vitals.stage]
        what = f"{vitals.stage} for"
    elif vitals.last_step_ended is None:
        # The first step traces and compiles, whatever the stage is called.
        limit = limits.stages["compiling"]
        what = "no first step for"
    else:
        began = max(began, vitals.last_step_ended)
        known = vitals.step_seconds
        new_size = not known or not all(known)
        limit = limits.stages["compiling"] if new_size else max(step_limit_seconds(seconds, limits) for seconds in known)
        what = "no step of a new size ended for" if new_size else "no step ended for"
    if vitals.waits_until is not None:
        began = max(began, min(now, vitals.waits_until))
    idle = max(0.0, now - began - vitals.paused_seconds)
    healthy = idle <= limit
    bound = "no limit" if math.isinf(limit) else f"limit {limit:.1f} s"
    return Health(healthy, idle, limit, f"{'ok' if healthy else 'stalled'}: {what} {idle:.1f} s, {bound}")
