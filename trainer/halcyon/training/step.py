"""One optimizer step: losses and gradients as weighted sums over all microbatches, divided once.

The division by the weight of the *whole* batch comes after the last microbatch and after the sum over all devices. So the result is that of
the full batch, whatever the gradient accumulation, the padding and the distribution of the loss weights; a mean of means would differ.

Microbatches cause no more communication than one batch: each replica adds up the gradients of its own rows, and one sum over the replicas
follows the last microbatch. If memory allows, the parameters are also gathered over ``fsdp`` only once, before the first microbatch, and
the gradients scattered once, after the last. Otherwise both are done for each microbatch, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from halcyon.objectives import Batch, Objective, Sums
from halcyon.optim.rounding import add_updates
from halcyon.optim.rule import merge, select
from halcyon.parallel.axes import constrain, constrain_here
from halcyon.parallel.partition import by_group
from halcyon.training.curvature import Samples, check_estimator, gauss_newton, hutchinson
from halcyon.training.divergence import drop_update, judge
from halcyon.training.state import Model, TrainState
from halcyon_api.spec.divergence import DivergenceSpec
from halcyon_api.spec.rules.sophia import Estimator


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


CONTROL_BITS = 2
"""Bits of a control value."""

_ROUNDING = 2**32 - 1
"""Number of the key of stochastic rounding, which no microbatch has."""
_RULE = 2**32 - 2
"""Number of the key of the update rule."""
_CURVATURE = 2**32 - 3
"""Number of the key of the estimate of curvature."""


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
    trained: Any | None = None,
    random: bool = False,
    estimator: Estimator | None = None,
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
        trained: The model with a bool in the place of each NamedArray; one with False gets no gradient and no update. None: all are
            trained.
        random: Whether the update rule takes a key.
        estimator: The estimate of curvature that the update rule takes. None: it takes none.

    Raises:
        BadConfiguration: The objective or the model cannot serve the estimator.
    """
    policy = divergence or DivergenceSpec()
    optimizer = optax.with_extra_args_support(optimizer)

    def key_of(step: jax.Array, number: jax.Array | int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), number)

    def of_microbatch(
        learned: Model, fixed: Model | None, batch: Batch, step: jax.Array, number: jax.Array | int
    ) -> tuple[jax.Array, Sums]:
        sums = objective(_joined(learned, fixed), batch, None, key_of(step, number))
        return sums.loss if sums.penalty is None else sums.loss + sums.penalty, sums

    gradient_sums = jax.grad(of_microbatch, has_aux=True)
    check_estimator(estimator, objective)

    def batch_sums(model: Model, batch: Batch, step: jax.Array) -> tuple[Sums, Model]:
        microbatches = len(jax.tree.leaves(batch)[0])
        if microbatches == 1:
            gradient, sums = gradient_sums(*_parted(model, trained), jax.tree.map(lambda rows: rows[0], batch), step, 0)
            return sums, gradient

        def of_group(batch: Batch, model: Model, step: jax.Array) -> tuple[Sums, Model]:
            learned, fixed = _parted(model, trained)

            def accumulate(carry: Any, microbatch: tuple[Batch, jax.Array]) -> tuple[Any, None]:
                gradient, sums = gradient_sums(learned, fixed, microbatch[0], step, microbatch[1])
                added = jax.tree.map(lambda total, part: total + part.astype(jnp.float32), carry, (sums, gradient))
                return constrain_here(added), None

            one = jax.tree.map(lambda rows: rows[0], batch)
            sums = jax.eval_shape(lambda: gradient_sums(learned, fixed, one, step, 0)[1])
            zero = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), jnp.float32), (sums, learned))
            return jax.lax.scan(accumulate, constrain_here(zero), (batch, jnp.arange(microbatches)))[0]

        return by_group(of_group, batch, model, step, rows_at=1, gathered=gather_once, sums=_parted(model, trained)[0])

    def arguments(state: TrainState, batch: Batch, rate: jax.Array) -> dict[str, Any]:
        """What the update takes. A rule without randomness gets no key, so that its program has no operation for one."""
        taken: dict[str, Any] = {"learning_rate": rate, "step": state.step}
        if random:
            taken["key"] = key_of(state.step, _RULE)
        if estimator is not None:
            taken["curvature"] = lambda: constrain(estimate(state, batch), mesh)
        return taken

    def estimate(state: TrainState, batch: Batch) -> Model:
        """The diagonal of the Hessian of the mean loss, of the trained parameters."""
        key, (learned, fixed) = key_of(state.step, _CURVATURE), _parted(state.model, trained)
        if estimator == "hutchinson":
            return hutchinson(
                lambda learned, rows, step, number: of_microbatch(learned, fixed, rows, step, number)[0], learned, batch, state.step, key
            )
        return gauss_newton(
            cast("Samples", objective), lambda model, rows, step: batch_sums(model, rows, step)[1], state.model, batch, state.step, key
        )

    def train_step(state: TrainState, batch: Batch, control: jax.Array) -> tuple[TrainState, StepMetrics]:
        sums, gradient = batch_sums(state.model, batch, state.step)
        share = 1.0 / jnp.maximum(sums.weight, 1.0)
        gradient = constrain(jax.tree.map(lambda total: total.astype(jnp.float32) * share, gradient), mesh)
        rate = learning_rate(state.step)
        learned, fixed = _parted(state.model, trained)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, learned, **arguments(state, batch, rate))
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
        )
        new = add_updates(learned, updates, key_of(state.step, _ROUNDING) if stochastic else None), optimizer_state
        learned, optimizer_state = drop_update(policy, verdict, (learned, state.optimizer_state), new)
        model = _joined(learned, fixed)
        return constrain(TrainState(step=state.step + 1, model=model, optimizer_state=optimizer_state, losses=losses), mesh), metrics

    return train_step


def _parted(model: Model, trained: Any | None) -> tuple[Model, Model | None]:
    """The trained part of a model, and the rest: each has None in the places of the other."""
    if trained is None:
        return model, None
    return select(model, trained), select(model, jax.tree.map(lambda flag: not flag, trained))


def _joined(learned: Model, fixed: Model | None) -> Model:
    return learned if fixed is None else merge([learned, fixed])


def _any_bits(control: jax.Array) -> jax.Array:
    """The bitwise OR of the values. It takes the maximum of each bit, because not every backend has an OR reduction over processes."""
    bits = jnp.arange(CONTROL_BITS, dtype=control.dtype)
    return jnp.sum(jnp.max((control[:, None] >> bits) & 1, axis=0) << bits)
