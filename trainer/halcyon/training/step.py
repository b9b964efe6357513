"""One optimizer step: losses and gradients as weighted sums over all microbatches, divided once.

The division by the weight of the *whole* batch comes after the last microbatch and after the sum over all devices. So the result is that of
the full batch, whatever the gradient accumulation, the padding and the distribution of the loss weights; a mean of means would differ.

Microbatches cause no more communication than one batch: each replica adds up the gradients of its own rows, and one sum over the replicas
follows the last microbatch. If memory allows, the parameters are also gathered over ``fsdp`` only once, before the first microbatch, and
the gradients scattered once, after the last. Otherwise both are done for each microbatch, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from halcyon.objectives import Batch, Objective, Sums
from halcyon.optim.average import updated_average
from halcyon.optim.rounding import add_updates
from halcyon.parallel.axes import constrain, constrain_here
from halcyon.parallel.partition import by_group
from halcyon.training.divergence import drop_update, judge
from halcyon.training.state import Model, TrainState
from halcyon.training.watch import watched
from halcyon_api.spec.average import AverageSpec
from halcyon_api.spec.divergence import DivergenceSpec
from halcyon_api.spec.watch import WatchSpec


class StepMetrics(eqx.Module):
    """The numbers of one step, on the device: scalars unless stated otherwise."""

    loss: jax.Array
    """Training loss before the update, nats per token."""
    gradient_norm: jax.Array
    """Global norm of the gradient before clipping."""
    learning_rate: jax.Array
    tokens: jax.Array
    """Sum of the loss weights: the tokens that counted in the loss."""
    verdict: jax.Array
    """A `halcyon.training.divergence.Verdict`."""
    control: jax.Array
    """The bits that any process has set in its control value: a request of one process reaches all at the same step."""
    metrics: dict[str, jax.Array]
    """Further metrics of the objective by name, each per unit of weight: scalars, or arrays [layer, expert]."""
    watched: dict[str, jax.Array] = eqx.field(default_factory=dict)
    """The numbers of `halcyon.training.watch`; empty in a step that is not watched."""


CONTROL_BITS = 2
"""Bits of a control value."""

_ROUNDING = 2**32 - 1
"""Number of the key of stochastic rounding, which no microbatch has."""


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    mesh: Mesh,
    divergence: DivergenceSpec | None = None,
    *,
    seed: int = 0,
    gather_once: bool = False,
    stochastic: bool = False,
    average: AverageSpec | None = None,
    watch: WatchSpec | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepMetrics]]:
    """Build the step function, to be compiled with the state donated.

    Args:
        objective: The objective to minimise.
        optimizer: The update rule. Its update gets the rate as the keyword argument ``learning_rate``, if it takes one.
        learning_rate: The rate as a function of the number of steps done; steps with dropped updates count.
        mesh: The device mesh.
        divergence: The policy that decides which updates are dropped.
        seed: Seed of the objective's randomness; each microbatch of each step gets its own key.
        gather_once: Keep all parameters, and the sums of their gradients, on each device while the microbatches are computed.
        stochastic: Round bfloat16 parameters stochastically.
        average: The average of the parameters that the state has.
        watch: What each step of this program watches. None: nothing.
    """
    policy = divergence or DivergenceSpec()
    optimizer = optax.with_extra_args_support(optimizer)

    def key_of(step: jax.Array, number: jax.Array | int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), number)

    def of_microbatch(model: Model, batch: Batch, step: jax.Array, number: jax.Array | int) -> tuple[jax.Array, Sums]:
        sums = objective(model, batch, None, key_of(step, number))
        return sums.loss if sums.penalty is None else sums.loss + sums.penalty, sums

    gradient_sums = jax.grad(of_microbatch, has_aux=True)

    def batch_sums(model: Model, batch: Batch, step: jax.Array) -> tuple[Sums, Model]:
        microbatches = len(jax.tree.leaves(batch)[0])
        if microbatches == 1:
            gradient, sums = gradient_sums(model, jax.tree.map(lambda rows: rows[0], batch), step, 0)
            return sums, gradient

        def of_group(batch: Batch, model: Model, step: jax.Array) -> tuple[Sums, Model]:
            def accumulate(carry: Any, microbatch: tuple[Batch, jax.Array]) -> tuple[Any, None]:
                gradient, sums = gradient_sums(model, microbatch[0], step, microbatch[1])
                added = jax.tree.map(lambda total, part: total + part.astype(jnp.float32), carry, (sums, gradient))
                return constrain_here(added), None

            one = jax.tree.map(lambda rows: rows[0], batch)
            sums = jax.eval_shape(lambda: gradient_sums(model, one, step, 0)[1])
            zero = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), jnp.float32), (sums, model))
            return jax.lax.scan(accumulate, constrain_here(zero), (batch, jnp.arange(microbatches)))[0]

        return by_group(of_group, batch, model, step, rows_at=1, gathered=gather_once)

    def train_step(state: TrainState, batch: Batch, control: jax.Array) -> tuple[TrainState, StepMetrics]:
        sums, gradient = batch_sums(state.model, batch, state.step)
        share = 1.0 / jnp.maximum(sums.weight, 1.0)
        gradient = constrain(jax.tree.map(lambda total: total.astype(jnp.float32) * share, gradient), mesh)
        rate = learning_rate(state.step)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.model, learning_rate=rate)
        loss, gradient_norm = sums.loss * share, optax.tree.norm(gradient)
        verdict, losses = judge(policy, loss, gradient_norm, state.losses)
        metrics = StepMetrics(
            loss=loss,
            gradient_norm=gradient_norm,
            learning_rate=rate,
            tokens=sums.weight,
            verdict=verdict,
            control=_any_bits(control),
            metrics={name: total * share for name, total in sums.metrics.items()},
            watched={} if watch is None else watched(watch, {"parameters": state.model, "gradients": gradient, "updates": updates}),
        )
        model = add_updates(state.model, updates, key_of(state.step, _ROUNDING) if stochastic else None)
        new = model, optimizer_state, updated_average(average, state.average, model, state.step + 1)
        kept = drop_update(policy, verdict, (state.model, state.optimizer_state, state.average), new)
        return constrain(TrainState(state.step + 1, kept[0], kept[1], losses, kept[2]), mesh), metrics

    return train_step


def _any_bits(control: jax.Array) -> jax.Array:
    """The bitwise OR of the values. It takes the maximum of each bit, because not every backend has an OR reduction over processes."""
    bits = jnp.arange(CONTROL_BITS, dtype=control.dtype)
    return jnp.sum(jnp.max((control[:, None] >> bits) & 1, axis=0) << bits)
