"""Estimates of the diagonal of the Hessian of a step's loss, for Sophia (Liu et al. 2023, section 2.3).

- ``gaussNewton`` (algorithm 2, Gauss-Newton-Bartlett): the model samples a target for each position from its own distribution. With the
  gradient of the loss of these targets, ``sum_i sqrt(w_i) grad_i``, the estimate is its square over the sum of the weights w. For weights
  of 0 and 1 this is the paper's ``B * g * g`` of the mean gradient g. For other weights its mean is still the Gauss-Newton diagonal.
- ``hutchinson`` (algorithm 1): ``u * (H u)`` with one normal vector u. The product with the Hessian is the gradient of the product of the
  gradient with u. So attention and losses that define their own gradients are differentiated twice in reverse.

The noise of a row is a function of seed, step and the row's tokens, and u is one of seed and step. So neither the microbatches nor the mesh
change an estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from halcyon.errors import BadConfiguration
from halcyon.objectives import Batch
from halcyon.training.state import Model
from halcyon_api.spec.rules.sophia import Estimator


@runtime_checkable
class Samples(Protocol):
    """An objective whose model can sample targets."""

    def sampled(self, model: Any, batch: Batch, key: jax.Array) -> Batch:
        """The batch with targets from the model's own distribution."""
        ...


GradientSums = Callable[[Model, Batch, jax.Array], Model]
"""The gradient of the summed loss of all microbatches."""
LossSum = Callable[[Model, Batch, jax.Array, jax.Array], jax.Array]
"""The summed loss of one microbatch; takes its number too."""


def check_estimator(estimator: Estimator | None, objective: object) -> None:
    """Reject an estimator that the objective cannot serve.

    Raises:
        BadConfiguration: The objective has no targets that a model can sample.
    """
    if estimator == "gaussNewton" and not isinstance(objective, Samples):
        raise BadConfiguration("spec.optimizer.sophia.estimator: gaussNewton needs the objective nextToken; use hutchinson")


def gauss_newton(objective: Samples, gradient_sums: GradientSums, model: Model, batch: Batch, step: jax.Array, key: jax.Array) -> Model:
    """The Gauss-Newton-Bartlett estimate for a batch of arrays [microbatches, batch, position]; float32."""
    weight = jnp.maximum(jnp.sum(batch["weights"].astype(jnp.float32)), 1.0)

    def one(rows: Batch) -> Batch:
        return objective.sampled(model, rows, key)

    drawn = jax.lax.map(one, batch)
    gradient = gradient_sums(model, {**drawn, "weights": jnp.sqrt(batch["weights"].astype(jnp.float32))}, step)
    return jax.tree.map(lambda g: jnp.square(g.astype(jnp.float32)) / weight, gradient)


def hutchinson(loss_sum: LossSum, model: Model, batch: Batch, step: jax.Array, key: jax.Array) -> Model:
    """Hutchinson's estimate for a batch of arrays [microbatches, batch, position]; float32.

    Raises:
        BadConfiguration: A part of the model has no second derivative.
    """
    weight = jnp.maximum(jnp.sum(batch["weights"].astype(jnp.float32)), 1.0)
    leaves, structure = jax.tree.flatten(model)
    keys = jax.random.split(key, len(leaves))
    pairs = zip(keys, leaves, strict=True)
    direction = jax.tree.unflatten(structure, [jax.random.normal(one, leaf.shape, jnp.float32) for one, leaf in pairs])

    def slope(model: Model, rows: Batch, number: jax.Array) -> jax.Array:
        gradient = jax.grad(loss_sum)(model, rows, step, number)
        products = jax.tree.map(lambda g, u: jnp.sum(g.astype(jnp.float32) * u), gradient, direction)
        return jax.tree.reduce(jnp.add, products)

    def accumulate(total: Model, microbatch: tuple[Batch, jax.Array]) -> tuple[Model, None]:
        product = jax.grad(slope)(model, *microbatch)
        return jax.tree.map(lambda sum_, part: sum_ + part.astype(jnp.float32), total, product), None

    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), model)
    try:
        product = jax.lax.scan(accumulate, zero, (batch, jnp.arange(len(batch["weights"]))))[0]
    except (ValueError, TypeError, NotImplementedError) as error:
        raise BadConfiguration(
            "spec.optimizer.sophia.estimator: hutchinson differentiates the model twice, which its attention or its experts do not allow "
            f"({_first_line(error)}); use gaussNewton, or trainer.attention: reference"
        ) from error
    return jax.tree.map(lambda u, p: u * p / weight, direction, product)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0][:120].rstrip(".")
