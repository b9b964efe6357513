"""One optimizer step: losses and gradients as weighted sums over all microbatches, divided once.

The division by the weight of the *whole* batch comes after the last microbatch and after the sum over all devices, so gradient
accumulation, padding and an uneven spread of loss weights change nothing: the result is the full batch's. A mean of means would not be.

Microbatches send between devices only what one batch would: each replica adds up the gradients of its own rows, and they are summed over
the replicas after the last microbatch. Where memory allows, the parameters are gathered over ``fsdp`` before the first microbatch too, and
the gradients scattered after the last one; where it does not, that is done for each microbatch, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from halcyon.data.loader import Batch
from halcyon.parallel.axes import constrain, constrain_here
from halcyon.parallel.by_device import by_group
from halcyon.training.divergence import judge, keep_if_dropped
from halcyon.training.state import Model, TrainState
from halcyon_api.spec.divergence import DivergenceSpec

LossSums = Callable[[Model, Batch], tuple[jax.Array, jax.Array]]
"""(model, one microbatch, whose arrays are [batch, position]) -> (weighted sum of nats, sum of weights)."""


class StepMetrics(eqx.Module):
    """What one step says of itself; scalars that stay on the device until somebody asks."""

    loss: jax.Array
    """Training loss before the update, nats per token."""
    gradient_norm: jax.Array
    """Global norm of the gradient before clipping."""
    learning_rate: jax.Array
    tokens: jax.Array
    """Sum of the loss weights: tokens that counted."""
    verdict: jax.Array
    """A `halcyon.training.divergence.Verdict`."""
    control: jax.Array
    """The bits that any process has set in its control value: how one process's wish reaches all at the same step."""


CONTROL_BITS = 2
"""Bits of a control value."""


def make_train_step(
    loss_sums: LossSums,
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    mesh: Mesh,
    divergence: DivergenceSpec | None = None,
    *,
    gather_once: bool = False,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepMetrics]]:
    """Build the step function, to be compiled with the state donated.

    Args:
        loss_sums: The loss of one microbatch.
        optimizer: The update rule. Its update is told the rate as the keyword argument ``learning_rate``, if it takes any.
        learning_rate: The rate by the number of steps done, dropped updates included: the only count of the steps there is.
        mesh: The device mesh.
        divergence: Which steps' updates are dropped.
        gather_once: Hold all parameters, and the sums of their gradients, on each device while microbatches are computed.
    """
    policy = divergence or DivergenceSpec()
    optimizer = optax.with_extra_args_support(optimizer)

    gradient_sums = jax.value_and_grad(loss_sums, has_aux=True)

    def batch_sums(model: Model, batch: Batch) -> tuple[jax.Array, jax.Array, Model]:
        if batch.tokens.shape[0] == 1:
            (nats, weight), gradient = gradient_sums(model, jax.tree.map(lambda rows: rows[0], batch))
            return nats, weight, gradient

        def of_group(batch: Batch, model: Model) -> tuple[tuple[jax.Array, jax.Array], Model]:
            def accumulate(carry: Any, microbatch: Batch) -> tuple[Any, None]:
                sums, gradient = gradient_sums(model, microbatch)
                added = jax.tree.map(lambda total, part: total + part.astype(jnp.float32), carry, (sums, gradient))
                return constrain_here(added), None

            zero = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), jnp.float32), ((0.0, 0.0), model))
            return jax.lax.scan(accumulate, constrain_here(zero), batch)[0]

        (nats, weight), gradient = by_group(of_group, batch, model, rows_at=1, gathered=gather_once)
        return nats, weight, gradient

    def train_step(state: TrainState, batch: Batch, control: jax.Array) -> tuple[TrainState, StepMetrics]:
        nats, weight, gradient = batch_sums(state.model, batch)
        share = 1.0 / jnp.maximum(weight, 1.0)
        gradient = constrain(jax.tree.map(lambda total: total.astype(jnp.float32) * share, gradient), mesh)
        rate = learning_rate(state.step)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.model, learning_rate=rate)
        loss, gradient_norm = nats * share, optax.tree.norm(gradient)
        verdict, losses = judge(policy, loss, gradient_norm, state.losses)
        metrics = StepMetrics(
            loss=loss,
            gradient_norm=gradient_norm,
            learning_rate=rate,
            tokens=weight,
            verdict=verdict,
            control=_any_bits(control),
        )
        new = optax.apply_updates(state.model, updates), optimizer_state
        model, optimizer_state = keep_if_dropped(policy, verdict, (state.model, state.optimizer_state), new)
        return constrain(TrainState(step=state.step + 1, model=model, optimizer_state=optimizer_state, losses=losses), mesh), metrics

    return train_step


def _any_bits(control: jax.Array) -> jax.Array:
    """The bits that are set in any of the values. By the largest of each, for not every backend reduces by OR over processes."""
    bits = jnp.arange(CONTROL_BITS, dtype=control.dtype)
    return jnp.sum(jnp.max((control[:, None] >> bits) & 1, axis=0) << bits)
