"""Estimates of the diagonal of the Hessian of a step's loss, for Sophia (Liu et al. 2023, section 2.3).

- ``gaussNewton`` (algorithm 2, Gauss-Newton-Bartlett): the model samples a target for each position from its own
  distribution. With the gradient of the loss of these targets, ``sum_i sqrt(w_i) grad_i``, the estimate is its square
  over the sum of the weights w. For weights of 0 and 1 this is the paper's ``B * g * g`` of the mean gradient g. For
  other weights its mean is still the Gauss-Newton diagonal.
- ``hutchinson`` (algorithm 1): ``u * (H u)`` with one normal vector u. The product with the Hessian is the gradient of
  the product of the gradient with u. So attention and losses that define their own gradients are differentiated twice
  in reverse.

The sampled targets are a function of seed, step and number of the row, and u is one of seed and step. So neither the
microbatches nor the mesh change an estimate.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from halcyon.host.errors import BadConfiguration
from halcyon.step.objectives.objective import Batch, Objective
from halcyon.step.state import Model
from halcyon_api.spec.rules import Estimator


@runtime_checkable
class Samples(Protocol):
    """An objective whose model can sample targets."""

    def sampled(self, model: Any, batch: Batch, seeds: jax.Array) -> Batch:
        """The batch with targets from the model's own distribution, by a random number for each row: uint32 [batch]."""
        ...


GradientSums = Callable[[Batch], Model]
"""The gradient of the summed loss of all microbatches, with respect to the trained part."""
LossSum = Callable[[Model, Batch, jax.Array], jax.Array]
"""The summed loss of one microbatch; takes the trained part of the model, the microbatch and its number."""


def check_estimator(estimator: Estimator | None, objective: Objective) -> None:
    """Reject an estimator that the objective cannot serve.

    Raises:
        BadConfiguration: The objective has no weights of tokens, or no targets that a model can sample.
    """
    if estimator is not None and not objective.per_token:
        raise BadConfiguration(
            "spec.optimizer.sophia: it needs an objective that weighs each token alone, such as nextToken; use adamw"
        )
    if estimator == "gaussNewton" and not isinstance(objective, Samples):
        raise BadConfiguration(
            "spec.optimizer.sophia.estimator: gaussNewton needs the objective nextToken; use hutchinson"
        )


def gauss_newton(objective: Samples, gradient_sums: GradientSums, model: Model, batch: Batch, key: jax.Array) -> Model:
    """The Gauss-Newton-Bartlett estimate.

    Args:
        objective: Samples the targets.
        gradient_sums: See `GradientSums`.
        model: The whole model.
        batch: Arrays [microbatches, batch, position].
        key: Random key of this step.

    Returns:
        Float32 arrays with the structure of the gradient.
    """
    weights = batch["weights"].astype(jnp.float32)
    # Row n of the step gets the same number whatever the microbatches are.
    seeds = jax.random.bits(key, weights.shape[:2], jnp.uint32)
    sampled = jax.lax.map(lambda microbatch: objective.sampled(model, *microbatch), (batch, seeds))
    gradient = gradient_sums({**sampled, "weights": jnp.sqrt(weights)})
    share = 1.0 / jnp.maximum(jnp.sum(weights), 1.0)
    return jax.tree.map(lambda g: jnp.square(g.astype(jnp.float32)) * share, gradient)


def hutchinson(loss_sum: LossSum, part: Model, batch: Batch, key: jax.Array) -> Model:
    """Hutchinson's estimate.

    Args:
        loss_sum: See `LossSum`.
        part: The trained part of the model.
        batch: Arrays [microbatches, batch, position].
        key: Random key of this step.

    Returns:
        Float32 arrays with the structure of `part`.

    Raises:
        BadConfiguration: A part of the model has no second derivative.
    """
    share = 1.0 / jnp.maximum(jnp.sum(batch["weights"].astype(jnp.float32)), 1.0)
    leaves, structure = jax.tree.flatten(part)
    pairs = zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    direction = jax.tree.unflatten(structure, [jax.random.normal(one, leaf.shape, jnp.float32) for one, leaf in pairs])

    def slope(part: Model, rows: Batch, number: jax.Array) -> jax.Array:
        gradient = jax.grad(loss_sum)(part, rows, number)
        products = jax.tree.map(lambda g, u: jnp.sum(g.astype(jnp.float32) * u), gradient, direction)
        return jax.tree.reduce(jnp.add, products)

    def accumulate(total: Model, microbatch: tuple[Batch, jax.Array]) -> tuple[Model, None]:
        product = jax.grad(slope)(part, *microbatch)
        return jax.tree.map(lambda old, one: old + one.astype(jnp.float32), total, product), None

    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), part)
    try:
        product = jax.lax.scan(accumulate, zero, (batch, jnp.arange(len(batch["weights"]))))[0]
    except (ValueError, TypeError, NotImplementedError) as error:
        first = str(error).strip().split("\n", maxsplit=1)[0][:120].rstrip(".")
        raise BadConfiguration(
            "spec.optimizer.sophia.estimator: hutchinson differentiates the model twice, which its attention or its "
            f"experts do not allow ({first}); use gaussNewton, or trainer.attention: reference"
        ) from error
    return jax.tree.map(lambda u, p: u * p * share, direction, product)
