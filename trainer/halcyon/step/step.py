"""One optimizer step: losses and gradients as weighted sums over all microbatches, divided once.

The division by the weight of the *whole* batch comes after the last microbatch and after the sum over all devices. So
the result is that of the full batch, whatever the gradient accumulation, the padding and the distribution of the loss
weights; a mean of means would differ.

Microbatches cause no more communication than one batch: each replica adds up the gradients of its own rows, and one sum
over the replicas follows the last microbatch. If memory allows, the parameters are also gathered over ``fsdp`` only
once, before the first microbatch, and the gradients scattered once, after the last. Otherwise both are done for each
microbatch, layer by layer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from halcyon.models.parameters import joined, split
from halcyon.models.softmax import without_padding
from halcyon.models.stack import empty_slots
from halcyon.optim.average import updated_average
from halcyon.optim.rounding import add_updates
from halcyon.parallel.axes import constrain
from halcyon.step.curvature import Samples, check_estimator, gauss_newton, hutchinson
from halcyon.step.divergence import drop_update, judge
from halcyon.step.gradients import Gradients
from halcyon.step.in_step import InStep, StepView, all_seen
from halcyon.step.objectives.objective import Batch
from halcyon.step.offload import back_in_place, on_devices_after
from halcyon.step.state import Model, TrainState
from halcyon.step.watch import Watched, watched
from halcyon_api.spec.average import AverageSpec
from halcyon_api.spec.recovery import DivergenceSpec
from halcyon_api.spec.rules import Estimator
from halcyon_api.spec.telemetry import WatchSpec


class StepMetrics(eqx.Module):
    """The numbers of one step, on the device: scalars unless stated otherwise."""

    loss: jax.Array
    """Training loss before the update, nats per token."""
    gradient_norm: jax.Array
    """Global norm of the gradient before clipping."""
    learning_rate: jax.Array
    tokens: jax.Array
    """Sum of the loss weights: the tokens that counted in the loss; or the conversations or pairs, if these are
    weighted.
    """
    verdict: jax.Array
    """A `halcyon.step.divergence.Verdict`."""
    control: jax.Array
    """The bits that any process has set in its control value: a request of one process reaches all at the same step."""
    metrics: dict[str, jax.Array]
    """Further metrics of the objective by name, each per unit of weight: scalars, or arrays [layer, expert]."""
    seen: tuple[dict[str, jax.Array], ...] = ()
    """What each function of the library's user has returned (`halcyon.step.in_step`)."""
    watched: dict[str, jax.Array] = eqx.field(default_factory=dict)
    """The numbers of `halcyon.step.watch`; empty in a step that is not watched."""


CONTROL_BITS = 3
"""Bits of a control value."""

_ROUNDING = 2**32 - 1
"""Number of the key of stochastic rounding, which no microbatch has."""
_RULE = 2**32 - 3
"""Number of the key of the update rule."""
_CURVATURE = 2**32 - 4
"""Number of the key of the estimate of curvature."""


def make_train_step(
    gradients: Gradients,
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    mesh: Mesh,
    divergence: DivergenceSpec | None = None,
    *,
    update_arguments: Callable[[jax.Array], Mapping[str, jax.Array]] = lambda done: {},
    stochastic: bool = False,
    trained: Any = None,
    random: bool = False,
    estimator: Estimator | None = None,
    in_step: Sequence[InStep] = (),
    average: AverageSpec | None = None,
    watch: WatchSpec | None = None,
    sampler_steps: int = 1,
    tokens: int | None = None,
    rate_of: Callable[[optax.OptState], jax.Array] | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, StepMetrics]]:
    """Build the step function, to be compiled with the state donated.

    Args:
        gradients: How the gradient of a batch is computed.
        optimizer: The update rule of the trained parameters. Its update gets the rate as the keyword argument
            ``learning_rate``, if it takes one.
        learning_rate: The rate as a function of the number of steps done; steps with dropped updates count.
        mesh: The device mesh.
        divergence: The policy that decides which updates are dropped.
        update_arguments: Further keyword arguments of the update, as a function of the number of steps done
            (`halcyon.optim.update_arguments`).
        stochastic: Round bfloat16 parameters stochastically.
        trained: True in the place of each trained parameter (see `halcyon.models.parameters`). None: all are trained.
        random: Whether the update rule takes a random key.
        estimator: The estimate of curvature that the update rule takes. None: it takes none.
        in_step: Functions of the library's user.
        average: The average of the parameters that the state has.
        watch: What each step of this program watches. None: nothing.
        sampler_steps: Steps after which the state takes the trained part as its sampler again, if it has one.
        tokens: `halcyon.models.CausalLM.tokens` of the model.
        rate_of: The rate that the optimizer state contains, of an update rule that decides its own.

    Raises:
        BadConfiguration: The objective cannot serve the estimator.
    """
    check_estimator(estimator, gradients.objective)
    policy = divergence or DivergenceSpec()
    optimizer = optax.with_extra_args_support(optimizer)

    key_of = gradients.key_of

    def estimate(state: TrainState, batch: Batch) -> Model:
        """The diagonal of the Hessian of the mean loss, with respect to the trained part."""
        step, (part, fixed) = state.step, split(state.model, trained)
        key, rest = key_of(step, _CURVATURE), (fixed, state.reference)
        if estimator == "hutchinson":
            return hutchinson(
                lambda part, rows, number: gradients.of_microbatch((part, {}), rest, rows, step, number)[0],
                part,
                batch,
                key,
            )
        samples = cast("Samples", gradients.objective)
        return gauss_newton(
            samples, lambda drawn: gradients.of_batch((part, {}), rest, drawn, step)[1][0], state.model, batch, key
        )

    def asked(state: TrainState, batch: Batch) -> dict[str, Any]:
        """What only some update rules take. Others get none of it, so that their program has no operation for it."""
        key = {"key": key_of(state.step, _RULE)} if random else {}
        if estimator is None:
            return key
        return {**key, "step": state.step, "curvature": lambda: constrain(estimate(state, batch), mesh)}

    def train_step(state: TrainState, batch: Batch, control: jax.Array) -> tuple[TrainState, StepMetrics]:
        part, fixed = split(state.model, trained)
        batch = gradients.seeded(batch, state.step)
        slots = (
            empty_slots(state.model, histograms=watch.histograms)
            if watch is not None and "activations" in watch.what
            else {}
        )
        sums, (gradient, activations) = gradients.of_batch((part, slots), (fixed, state.reference), batch, state.step)
        share = 1.0 / jnp.maximum(sums.weight, 1.0)
        gradient = constrain(jax.tree.map(lambda total: total.astype(jnp.float32) * share, gradient), mesh)
        loss, gradient_norm = sums.loss * share, optax.tree.norm(gradient)
        placed, state = state, on_devices_after(state, gradient_norm)
        rate, scheduled = learning_rate(state.step), update_arguments(state.step)
        with jax.named_scope("optimizer"):
            updates, optimizer_state = optimizer.update(
                gradient, state.optimizer_state, part, learning_rate=rate, **scheduled, **asked(state, batch)
            )
            updates = without_padding(updates, tokens)  # a rule that mixes rows could move them
        verdict, losses = judge(policy, loss, gradient_norm, state.losses)
        metrics = StepMetrics(
            loss=loss,
            gradient_norm=gradient_norm,
            learning_rate=rate if rate_of is None else rate_of(optimizer_state),
            tokens=sums.weight,
            verdict=verdict,
            control=_any_bits(control),
            metrics={name: total * share for name, total in sums.metrics.items()},
            seen=all_seen(in_step, StepView(state.step + 1, loss, part, gradient, updates), sums.metrics),
            watched={} if watch is None else watched(watch, Watched(part, gradient, updates, activations), state.step),
        )
        with jax.named_scope("optimizer"):
            updated = add_updates(part, updates, key_of(state.step, _ROUNDING) if stochastic else None)
            mean = updated_average(average, state.average, joined(updated, fixed), state.step + 1)
            before = part, state.optimizer_state, state.average
            part, optimizer_state, mean = drop_update(policy, verdict, before, (updated, optimizer_state, mean))
        sampler = None if state.sampler is None else sampling_part(state, trained, sampler_steps)
        done = TrainState(state.step + 1, joined(part, fixed), optimizer_state, losses, mean, state.reference, sampler)
        return back_in_place(constrain(done, mesh), placed), metrics

    return train_step


def sampling_part(state: TrainState, trained: Any, steps: int) -> Model:
    """The trained part of the model that samples the answers of the next step.

    Args:
        state: The state before the step.
        trained: True in the place of each trained parameter. None: all are trained.
        steps: Steps between two changes of the sampler.
    """
    part = split(state.model, trained)[0]
    if state.sampler is None:
        return part
    return jax.tree.map(lambda new, old: jnp.where(state.step % steps == 0, new, old), part, state.sampler)


def _any_bits(control: jax.Array) -> jax.Array:
    """The bitwise OR of the values.

    It takes the maximum of each bit, because not every backend has an OR reduction over processes.
    """
    bits = jnp.arange(CONTROL_BITS, dtype=control.dtype)
    return jnp.sum(jnp.max((control[:, None] >> bits) & 1, axis=0) << bits)
