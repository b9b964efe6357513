"""SOAP-Muon: Muon of the momentum that SOAP divides by its root mean square in the eigenbasis of Shampoo (Vyas et al.
2025, `SOAP-Muon <https://nikhilvyas.github.io/SOAP_Muon.pdf>`_).

The second moment is that of the momentum ahead (Nesterov), as in the fastest public runs with this rule. The first step
has no basis and is a step of Muon.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from halcyon.optim.eigenbasis import KINDS, Bases, back, first_bases, followed, into
from halcyon.optim.hidden import ahead, beside_adamw, decayed, scale
from halcyon.optim.matrices import Kind, Matrices
from halcyon.optim.orthogonal import orthogonalizer
from halcyon.optim.rule import Scalar, Tree, mean, transformation, zeros
from halcyon_api.spec.rules import MatricesSpec, SoapMuonSpec

_TINY = 1e-16
"""Least square of the momentum in the basis."""


class SoapMuonState(NamedTuple):
    """State of SOAP-Muon."""

    done: jax.Array
    """Gradients so far, int32 scalar."""
    momentum: Any
    """Mean of gradients, with the axes of the parameters."""
    second: Any
    """Mean of squares of the momentum in the bases of their steps, with the shapes of the parameters."""
    bases: Bases
    """Float32."""


def soap_muon(
    rule: SoapMuonSpec, parameters: Any, shared: MatricesSpec | None = None
) -> optax.GradientTransformationExtraArgs:
    """SOAP-Muon for hidden matrices, AdamW for the rest. See `halcyon.optim.rule`."""
    settings = shared or MatricesSpec()
    orthogonal = orthogonalizer(settings)

    def of_stack(gradient: jax.Array, step: jax.Array, second: jax.Array, *rest: jax.Array) -> tuple[jax.Array, ...]:
        bases, count = Bases(*rest[:-1]), rest[-1]
        begun = count > 0
        turned = into(step, bases)
        second = jnp.where(begun, rule.beta2 * second + (1 - rule.beta2) * jnp.square(turned), second)
        scaled = jnp.where(begun, back(turned / jnp.sqrt(jnp.maximum(second, _TINY)), bases), step)
        direction = orthogonal(scaled)
        return direction, second, *followed(bases, gradient, rule.beta2, count, rule.every_steps)

    def build(matrices: Matrices) -> optax.GradientTransformationExtraArgs:
        def init(params: Tree) -> SoapMuonState:
            momentum, second = (zeros(params) for _ in range(2))
            return SoapMuonState(jnp.zeros((), jnp.int32), momentum, second, first_bases(matrices))

        def update(
            gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
        ) -> tuple[Tree, SoapMuonState]:
            del further
            momentum = mean(state.momentum, gradients, rule.momentum)
            step = ahead(momentum, gradients, rule.momentum)
            held = [
                (Kind.MATRIX, gradients),
                (Kind.MATRIX, step),
                (Kind.MATRIX, state.second),
                *zip(KINDS, state.bases, strict=True),
            ]
            steps, second, *bases = matrices.compute(of_stack, held, [Kind.MATRIX, Kind.MATRIX, *KINDS], (state.done,))
            direction = matrices.map(lambda form, one: one * scale(form, settings.scaling), steps)
            changes = decayed(direction, params, learning_rate, weight_decay, cautious=settings.cautious)
            count = state.done + 1
            return changes, SoapMuonState(count, momentum, second, Bases(*bases))

        return transformation(init, update)

    return beside_adamw(build, parameters, settings)
