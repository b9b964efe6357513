"""Averages of the parameters over the steps of a run: two exponential moving averages, and the mean of the last models.

An exponential moving average begins without a bias towards the initial parameters: like the moments of Adam (Kingma and
Ba 2015, section 3) it is divided by ``1 - decay^t``, here by a greater share of the new model in the first updates. It
is kept in float32, because a narrower type would round small shares away. The average never enters the training: the
parameters are those of a run without an average.
"""

from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp

from halcyon.models.axes import is_named
from halcyon_api.spec.average import AverageSpec, EmaSpec, EmaSqrtSpec, LastKSpec

SNAPSHOT = "snapshot"
"""Axis of the last models."""

Tree = Any


class Average(eqx.Module):
    """The state of an average. It has exactly one of `model` and `snapshots`."""

    count: jax.Array
    """Models in the average, or that have been in it: int32 scalar."""
    model: Tree = None
    """An exponential moving average: the tree of the model in float32."""
    snapshots: Tree = None
    """The last models: the tree of the model, each array with a first axis `SNAPSHOT`.

    Model number n, from 0, is at n modulo its size.
    """


def empty_average(spec: AverageSpec | None, model: Tree) -> Average | None:
    """The average before the first step. None: the run has no average."""
    if spec is None:
        return None
    count = jnp.zeros((), jnp.int32)
    if spec.last_k is None:
        return Average(count, model=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model))
    size = spec.last_k.models
    return Average(count, snapshots=jax.tree.map(lambda leaf: _stacked_zeros(leaf, size), model, is_leaf=is_named))


def updated_average(spec: AverageSpec | None, average: Average | None, model: Tree, done: jax.Array) -> Average | None:
    """The average after a step. For use inside ``jax.jit``.

    With the t-th update at step s, an exponential moving average moves by the share ``(1 - decay) / (1 - decay^t)`` of
    the way to the new model. After ``fromStep``, `emaSqrt` multiplies this share by ``1 - sqrt((s - fromStep) /
    steps)``, so the decay grows to 1.

    Args:
        spec: ``spec.average`` of the run.
        average: The average after the step before.
        model: The model after the step.
        done: Steps done, including this one: int32 scalar.
    """
    if spec is None or average is None:
        return average
    match spec.value:
        case EmaSpec(decay=decay):
            return _moved(average, model, decay, jnp.float32(1.0))
        case EmaSqrtSpec(decay=decay, from_step=first, steps=steps):
            progress = jnp.clip((done - first).astype(jnp.float32) / steps, 0.0, 1.0)
            return _moved(average, model, decay, 1.0 - jnp.sqrt(progress))
        case LastKSpec(every_steps=every):
            # `cond`, so that the steps between two models copy nothing.
            return jax.lax.cond(done % every == 0, _with_snapshot, lambda old, new: old, average, model)


def averaged_model(average: Average, model: Tree) -> Tree:
    """The model to evaluate: an exponential moving average in float32, or the mean of the last models in their type.

    Compile it only for the mean: an exponential moving average is returned as it is, without a copy.

    Args:
        average: The average.
        model: The model of the same step, which stands for a mean of no models yet.
    """
    if average.snapshots is None:
        return average.model

    def mean(snapshots: jax.Array, leaf: jax.Array) -> jax.Array:
        held = jnp.minimum(average.count, len(snapshots))
        mask = (jnp.arange(len(snapshots)) < held).reshape((-1,) + (1,) * leaf.ndim)
        total = jnp.sum(jnp.where(mask, snapshots.astype(jnp.float32), 0.0), axis=0)
        return jnp.where(held > 0, total / jnp.maximum(held, 1), leaf.astype(jnp.float32)).astype(leaf.dtype)

    leaves, structure = jax.tree.flatten(model)
    return structure.unflatten([mean(*pair) for pair in zip(jax.tree.leaves(average.snapshots), leaves, strict=True)])


def _moved(average: Average, model: Tree, decay: float, factor: jax.Array) -> Average:
    count = average.count + 1
    share = factor * (1.0 - decay) / (1.0 - jnp.float32(decay) ** count.astype(jnp.float32))
    moved = jax.tree.map(lambda old, new: old + share * (new.astype(jnp.float32) - old), average.model, model)
    return Average(count, model=moved)


def _with_snapshot(average: Average, model: Tree) -> Average:
    leaves, structure = jax.tree.flatten(average.snapshots)
    slot = average.count % len(leaves[0])
    written = [old.at[slot].set(new) for old, new in zip(leaves, jax.tree.leaves(model), strict=True)]
    return Average(average.count + 1, snapshots=structure.unflatten(written))


def _stacked_zeros(leaf: Any, size: int) -> Any:
    if not is_named(leaf):
        return jnp.zeros((size, *leaf.shape), leaf.dtype)
    return hax.zeros((hax.Axis(SNAPSHOT, size), *leaf.axes), leaf.dtype)
