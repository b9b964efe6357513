"""The training state: the contents of a checkpoint, without anything that can be computed from the step number."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from halcyon.models import CausalLM
from halcyon.models.parameters import split
from halcyon.models.softmax import without_padding
from halcyon.optim.average import Average, empty_average
from halcyon.parallel.axes import with_shardings
from halcyon.step.compilation import compiler_options
from halcyon.step.divergence import LossWindow, empty_window
from halcyon_api.spec.average import AverageSpec
from halcyon_api.spec.recovery import DivergenceSpec

Model = Any
"""A causal language model: a pytree of Haliax arrays."""


class TrainState(eqx.Module):
    """Model, optimizer state and the number of steps done."""

    step: jax.Array
    """Steps done, int32 scalar."""
    model: Model
    optimizer_state: optax.OptState
    losses: LossWindow | None = None
    """The window of the spike rule; None, and absent in checkpoints, if the run has no spike rule."""
    average: Average | None = None
    """The average of the parameters; None, and absent in checkpoints, if the run has no ``spec.average``."""
    reference: Model | None = None
    """The model that the run began with, for an objective that compares with it, or its teacher; None, and absent in
    checkpoints, for other runs.
    """
    sampler: Model | None = None
    """The trained part of the model that samples answers, where it is not that of each step; None, and absent in
    checkpoints, for other runs."""


def vocabulary_of(model: Model) -> int | None:
    """`CausalLM.tokens` of a model; None also for a module of the library's user that is none."""
    return model.tokens if isinstance(model, CausalLM) else None


BuildState = Callable[[], TrainState]
CompleteState = Callable[[Model], TrainState]


def state_completer(
    optimizer: optax.GradientTransformation,
    divergence: DivergenceSpec,
    adapted: Callable[[Model], Model],
    trained: Any,
    average: AverageSpec | None,
    *,
    reference: Callable[[Model], Model | None],
    has_sampler: bool,
) -> CompleteState:
    """A function that makes the state before the first step from a model. Trace it, do not call it.

    The rows that pad the vocabulary are zero in it, whatever they are in the model.

    Args:
        optimizer: The update rule.
        divergence: ``spec.recovery.divergence``, which may have a spike rule.
        adapted: Adds the run's adapter to a model that has none.
        trained: True in the place of each trained parameter of the result. None: all are trained.
        average: The average of the parameters that the run keeps.
        reference: Makes the reference that the state keeps from the model.
        has_sampler: Whether the state keeps the trained part as the one that samples.
    """

    def complete(model: Model) -> TrainState:
        model = without_padding(adapted(model), vocabulary_of(model))
        part = split(model, trained)[0]
        optimizer_state = optimizer.init(part)
        mean, kept = empty_average(average, model), reference(model)
        sampler = part if has_sampler else None
        losses = empty_window(divergence)
        return TrainState(jnp.zeros((), jnp.int32), model, optimizer_state, losses, mean, kept, sampler)

    return complete


def state_template(build: BuildState, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of the state. Makes no array."""
    return with_shardings(jax.eval_shape(build), mesh)


def state_bytes(template: TrainState) -> int:
    """Bytes of a state, over all devices."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(template))


def for_one_run(function: Callable[..., Any], template: Any, **options: Any) -> Callable[..., Any]:
    """``jax.jit`` of a function that runs only once, with its results in the shardings of a template."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    return jax.jit(function, out_shardings=shardings, compiler_options=compiler_options(runs_once=True), **options)


def completed_state(complete: CompleteState, template: TrainState, model: Model) -> TrainState:
    """The state before the first step of a run that begins with this model. The model's buffers are donated."""
    return for_one_run(complete, template, donate_argnums=0)(model)


def with_new_average(spec: AverageSpec | None, template: TrainState, state: TrainState) -> TrainState:
    """A state with an average that begins now, for a run that begins with a checkpoint without one.

    The other arrays stay.
    """
    if template.average is None or state.average is not None:
        return state
    build = for_one_run(functools.partial(empty_average, spec), template.average)
    return dataclasses.replace(state, average=build(state.model))


def initial_state(build: BuildState, template: TrainState) -> TrainState:
    """The state before the first step, each shard built on its own device. The numbers do not depend on the mesh."""
    return for_one_run(build, template)()
