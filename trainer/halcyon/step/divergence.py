"""Detection of steps whose loss or gradient norm shows that the run diverges. It runs on the devices, on numbers that
all devices have.

A dropped update leaves parameters and optimizer state unchanged, bit for bit. Its step is counted, so the next batch
and the next learning rate are the same as without the drop. The losses that the spike rule compares with, those of the
last healthy steps, are part of the training state: a resumed run decides as a run without interruption.
"""

import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from halcyon.host.errors import Diverged
from halcyon_api.spec.recovery import DivergenceSpec

MOST_SKIPPED_IN_A_ROW = 64
"""The run stops after this number of dropped updates in a row."""


class RollBack(Exception):
    """The policy is to go back to the last good checkpoint because of a step. The loop handles it.

    Attributes:
        step: The step, counted from 1.
        reason: Its numbers.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


class Verdict(IntEnum):
    """The result of the check of one step."""

    HEALTHY = 0
    NON_FINITE = 1
    """The loss or the gradient norm is infinite or NaN."""
    SPIKE = 2
    """The loss, or the gradient norm, is far above those of the steps before."""


class LossWindow(eqx.Module):
    """A ring buffer with the losses of the last healthy steps, and their gradient norms if the rule compares them
    too.
    """

    losses: jax.Array
    """float32 [window]."""
    seen: jax.Array
    """Number of healthy steps so far, int32 scalar; the next loss is written at this number modulo the window."""
    norms: jax.Array | None = None
    """float32 [window]; None, and absent in checkpoints, if only losses are compared."""


def empty_window(policy: DivergenceSpec) -> LossWindow | None:
    """The window before the first step; None if the policy has no spike rule."""
    if policy.spike is None:
        return None
    zeros = jnp.zeros(policy.spike.window_steps, jnp.float32)
    norms = None if policy.spike.gradient_norm_sigmas is None else jnp.zeros_like(zeros)
    return LossWindow(losses=zeros, seen=jnp.zeros((), jnp.int32), norms=norms)


def judge(
    policy: DivergenceSpec, loss: jax.Array, gradient_norm: jax.Array, window: LossWindow | None
) -> tuple[jax.Array, LossWindow | None]:
    """Check a step, on the devices.

    A loss is a spike if the window is full and the loss is more than ``sigmas`` standard deviations above the mean of
    the window. The same holds for a gradient norm with ``gradientNormSigmas``.

    Args:
        policy: The run's policy.
        loss: Loss of the step, scalar.
        gradient_norm: Gradient norm of the step before clipping, scalar.
        window: The window after the step before.

    Returns:
        A `Verdict` as an int32 scalar, and the window for the next step.
    """
    finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
    verdict = jnp.where(finite, Verdict.HEALTHY, Verdict.NON_FINITE).astype(jnp.int32)
    if window is None or policy.spike is None:
        return verdict, window
    size, sigmas = policy.spike.window_steps, policy.spike.gradient_norm_sigmas
    high = _limit(window.losses, policy.spike.sigmas)
    full = finite & (window.seen >= size)
    spike = full & (loss > high)
    if window.norms is not None and sigmas is not None:
        spike |= full & (gradient_norm > _limit(window.norms, sigmas))
    verdict = jnp.where(spike, Verdict.SPIKE, verdict).astype(jnp.int32)
    taken = verdict == Verdict.HEALTHY

    def with_new(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(taken, old.at[window.seen % size].set(new.astype(jnp.float32)), old)

    norms = None if window.norms is None else with_new(window.norms, gradient_norm)
    return verdict, LossWindow(losses=with_new(window.losses, loss), seen=window.seen + taken, norms=norms)


def _limit(window: jax.Array, sigmas: float) -> jax.Array:
    return jnp.mean(window) + sigmas * jnp.std(window)


def drop_update(policy: DivergenceSpec, verdict: jax.Array, old: Any, new: Any) -> Any:
    """`old` if the policy drops the update of this verdict, else `new`; trees of arrays.

    A policy that drops nothing adds no operation.
    """
    actions = {Verdict.NON_FINITE: policy.non_finite, Verdict.SPIKE: policy.spike.action if policy.spike else "ignore"}
    dropped = [verdict == kind for kind, action in actions.items() if action == "skip"]
    if not dropped:
        return new
    drop = jnp.any(jnp.stack(dropped))
    # Not `where`: the compiler fuses it with the update, even across a barrier, which changes the rounding of a healthy
    # run.
    return jax.lax.cond(drop, lambda before, after: before, lambda before, after: after, old, new)


class DivergenceWatch:
    """Applies the policy on the host, to each step in order."""

    def __init__(self, policy: DivergenceSpec) -> None:
        self._policy = policy
        self._skipped_in_a_row = 0

    def skipped(self, step: int, verdict: int, loss: float, gradient_norm: float, last_good: Callable[[], str]) -> str:
        """Record a step.

        Args:
            step: Steps done, including this one.
            verdict: The `Verdict` from the devices.
            loss: Loss of the step.
            gradient_norm: Gradient norm of the step before clipping.
            last_good: Describes the newest checkpoint for the message; called only if the run stops.

        Returns:
            Why the update was dropped; empty if it was not dropped.

        Raises:
            RollBack: The policy is to go back.
            Diverged: The policy is to stop, or `MOST_SKIPPED_IN_A_ROW` updates in a row were dropped.
        """
        if verdict == Verdict.HEALTHY:
            self._skipped_in_a_row = 0
            return ""
        what = f"the loss of step {step} is {_formatted(loss)} and its gradient norm {_formatted(gradient_norm)}"
        action = self._policy.non_finite
        if verdict == Verdict.SPIKE and (spike := self._policy.spike) is not None:
            action = spike.action
            norm = (
                ""
                if spike.gradient_norm_sigmas is None
                else f", or {spike.gradient_norm_sigmas:g} for the gradient norm,"
            )
            what += (
                f", more than {spike.sigmas:g} standard deviations{norm} above the {spike.window_steps} steps before"
            )
        if action == "ignore":
            return ""
        if action == "rollback":
            raise RollBack(step, what)
        if action == "stop":
            field = "nonFinite: skip" if verdict == Verdict.NON_FINITE else "spike.action: skip"
            raise Diverged(
                f"{what}; {last_good()}; check the data of this step, then resume with recovery.divergence.{field}, or "
                "make a new run with a lower learning rate"
            )
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise Diverged(
                f"{what}, and so the updates of {self._skipped_in_a_row} steps in a row were dropped; {last_good()}; "
                "check the data and make a new run with a lower learning rate"
            )
        return what


def _formatted(number: float) -> str:
    return f"{number:.6g}" if math.isfinite(number) else "not a number" if math.isnan(number) else "infinite"
