"""SOAP: Adam in the eigenbasis of Shampoo (Vyas et al. 2024, `arXiv 2409.11321 <https://arxiv.org/abs/2409.11321>`_,
algorithm 3).

The first step only computes the bases and changes no hidden matrix, because a gradient is never projected to its own
basis. The first moment is kept in the standard basis; so a new basis needs no change of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from halcyon.optim.eigenbasis import KINDS, Bases, back, first_bases, followed, into
from halcyon.optim.hidden import beside_adamw, decayed
from halcyon.optim.matrices import Kind, Matrices
from halcyon.optim.rule import Scalar, Tree, transformation, zeros
from halcyon_api.spec.rules import MatricesSpec, SoapSpec

EPSILON = 1e-8
"""Added to the root of the second moment."""


class SoapState(NamedTuple):
    """State of SOAP."""

    done: jax.Array
    """Gradients so far, int32 scalar."""
    first: Any
    """Mean of gradients, with the axes of the parameters."""
    second: Any
    """Mean of squares of the gradients in the bases of their steps, with the shapes of the parameters."""
    bases: Bases
    """Float32."""


def soap(rule: SoapSpec, parameters: Any, shared: MatricesSpec | None = None) -> optax.GradientTransformationExtraArgs:
    """SOAP for hidden matrices, AdamW for the rest. See `halcyon.optim.rule`."""
    settings = shared or MatricesSpec()

    def of_stack(gradient: jax.Array, first: jax.Array, second: jax.Array, *rest: jax.Array) -> tuple[jax.Array, ...]:
        bases, count = Bases(*rest[:-1]), rest[-1]
        begun = count > 0
        first = jnp.where(begun, rule.beta1 * first + (1 - rule.beta1) * gradient, first)
        second = jnp.where(begun, rule.beta2 * second + (1 - rule.beta2) * jnp.square(into(gradient, bases)), second)
        updates = jnp.maximum(count, 1)
        mean, square = into(first, bases) / (1 - rule.beta1**updates), second / (1 - rule.beta2**updates)
        direction = back(mean / (jnp.sqrt(square) + EPSILON), bases)
        return direction, first, second, *followed(bases, gradient, rule.beta2, count, rule.every_steps)

    def build(matrices: Matrices) -> optax.GradientTransformationExtraArgs:
        def init(params: Tree) -> SoapState:
            first, second = (zeros(params) for _ in range(2))
            return SoapState(jnp.zeros((), jnp.int32), first, second, first_bases(matrices))

        def update(
            gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
        ) -> tuple[Tree, SoapState]:
            del further
            held = [
                (Kind.MATRIX, gradients),
                (Kind.MATRIX, state.first),
                (Kind.MATRIX, state.second),
                *zip(KINDS, state.bases, strict=True),
            ]
            results = [Kind.MATRIX, Kind.MATRIX, Kind.MATRIX, *KINDS]
            direction, first, second, *bases = matrices.compute(of_stack, held, results, (state.done,))
            begun = (state.done > 0).astype(jnp.float32)
            changes = decayed(direction, params, learning_rate * begun, weight_decay, cautious=settings.cautious)
            count = state.done + 1
            return changes, SoapState(count, first, second, Bases(*bases))

        return transformation(init, update)

    return beside_adamw(build, parameters, settings)
