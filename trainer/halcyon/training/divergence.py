"""Steps whose numbers say that the run is lost, or is about to be: judged on the devices, by numbers that all of them have.

A dropped update leaves parameters and optimizer state as they were, bit for bit; the step counts on, so the next batch and the next
learning rate are those that would have followed in any case. What the spike rule remembers, the losses of the last steps that were taken,
is part of the training state: a resumed run judges as a run that was never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from halcyon.errors import Diverged
from halcyon_api.spec.divergence import DivergenceSpec

MOST_SKIPPED_IN_A_ROW = 64
"""The number of dropped updates in a row at which the run stops."""


class Verdict(IntEnum):
    """What a step's numbers say."""

    HEALTHY = 0
    NON_FINITE = 1
    """Loss or gradient norm are infinite or not a number."""
    SPIKE = 2
    """The loss stands out from those before it."""


class LossWindow(eqx.Module):
    """The losses of the last healthy steps, as a ring."""

    losses: jax.Array
    """float32 [window]."""
    seen: jax.Array
    """How many healthy steps there were, int32 scalar; the next loss is put at this number modulo the window."""


def empty_window(policy: DivergenceSpec) -> LossWindow | None:
    """What the spike rule remembers before the first step; None where there is no such rule."""
    if policy.spike is None:
        return None
    return LossWindow(losses=jnp.zeros(policy.spike.window_steps, jnp.float32), seen=jnp.zeros((), jnp.int32))


def judge(
    policy: DivergenceSpec, loss: jax.Array, gradient_norm: jax.Array, window: LossWindow | None
) -> tuple[jax.Array, LossWindow | None]:
    """Judge a step on the devices.

    Args:
        policy: The run's policy.
        loss: Of the step, scalar.
        gradient_norm: Before clipping, scalar.
        window: What the steps before it left.

    Returns:
        A `Verdict` as an int32 scalar, and the window for the next step.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    verdict = jnp.where(finite, Verdict.HEALTHY, Verdict.NON_FINITE).astype(jnp.int32)
    if window is None or policy.spike is None:
        return verdict, window
    size = policy.spike.window_steps
    high = jnp.mean(window.losses) + policy.spike.sigmas * jnp.std(window.losses)
    verdict = jnp.where(finite & (window.seen >= size) & (loss > high), Verdict.SPIKE, verdict).astype(jnp.int32)
    taken = verdict == Verdict.HEALTHY
    losses = window.losses.at[window.seen % size].set(loss.astype(jnp.float32))
    return verdict, LossWindow(losses=jnp.where(taken, losses, window.losses), seen=window.seen + taken)


def keep_if_dropped(policy: DivergenceSpec, verdict: jax.Array, old: Any, new: Any) -> Any:
    """`old` after a verdict whose update is dropped, else `new`: trees of arrays. No policy that drops, no operation."""
    actions = {Verdict.NON_FINITE: policy.non_finite, Verdict.SPIKE: policy.spike.action if policy.spike else "ignore"}
    dropped = [verdict == kind for kind, action in actions.items() if action == "skip"]
    if not dropped:
        return new
    drop = jnp.any(jnp.stack(dropped))
    # Not `where`: the compiler would fuse it with the update and round a healthy run's numbers otherwise, barrier or not.
    return jax.lax.cond(drop, lambda before, after: before, lambda before, after: after, old, new)


class DivergenceWatch:
    """Draws the consequences on the host, in the order of the steps."""

    def __init__(self, policy: DivergenceSpec) -> None:
        self._policy = policy
        self._skipped_in_a_row = 0

    def skipped(self, step: int, verdict: int, loss: float, gradient_norm: float, last_good: Callable[[], str]) -> str:
        """Take note of a step.

        Args:
            step: Steps done, this one included.
            verdict: Of the devices.
            loss: Of the step.
            gradient_norm: Of the step.
            last_good: Says where the newest checkpoint is, for the sentence; asked only where the run stops.

        Returns:
            Why its update was dropped; empty where it was not.

        Raises:
            Diverged: The policy says stop, or too many updates in a row were dropped.
        """
        if verdict == Verdict.HEALTHY:
            self._skipped_in_a_row = 0
            return ""
        what = f"the loss of step {step} is {_said(loss)} and its gradient norm {_said(gradient_norm)}"
        action = self._policy.non_finite
        if verdict == Verdict.SPIKE and self._policy.spike is not None:
            action = self._policy.spike.action
            spike = self._policy.spike
            what += f", more than {spike.sigmas:g} standard deviations above the {spike.window_steps} steps before"
        if action == "ignore":
            return ""
        if action == "stop":
            field = "nonFinite: skip" if verdict == Verdict.NON_FINITE else "spike.action: skip"
            raise Diverged(
                f"{what}; {last_good()}; look at the data of this step, then go on past it with recovery.divergence.{field}, or make a new "
                "run with a lower learning rate"
            )
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise Diverged(
                f"{what}, and so the updates of {self._skipped_in_a_row} steps in a row were dropped; {last_good()}; look at the data and "
                "make a new run with a lower learning rate"
            )
        return what


def _said(number: float) -> str:
    return f"{number:.6g}" if math.isfinite(number) else "not a number" if math.isnan(number) else "infinite"
