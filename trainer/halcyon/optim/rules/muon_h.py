"""MuonH: Muon on a sphere (Wen et al. 2025, `Hyperball
<https://psychedelic-sunstone-851.notion.site/Fantastic-Pretraining-Optimizers-and-Where-to-Find-Them-2-1-Hyperball-Optimization-2e924306e6f280e7a5ffee00eb40a0dd>`_).

Each matrix keeps its Frobenius norm. The learning rate is the length of a step as a share of that norm. Weight decay
has no effect on a matrix of fixed norm, so there is none.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from haliax import NamedArray

from halcyon.optim.hidden import ahead, beside_adamw, norm, of_matrix
from halcyon.optim.matrices import Form, Matrices
from halcyon.optim.orthogonal import orthogonalizer
from halcyon.optim.rule import Scalar, Tree, mean, transformation, zeros
from halcyon_api.spec.rules import MatricesSpec, MuonHSpec

_TINY = 1e-10


def muon_h(
    rule: MuonHSpec, parameters: Any, shared: MatricesSpec | None = None
) -> optax.GradientTransformationExtraArgs:
    """MuonH for hidden matrices, AdamW for the rest. See `halcyon.optim.rule`."""
    settings = shared or MatricesSpec()
    orthogonal = orthogonalizer(settings)

    def build(matrices: Matrices) -> optax.GradientTransformationExtraArgs:
        def init(params: Tree) -> optax.TraceState:
            return optax.TraceState(zeros(params))

        def update(
            gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, **further: Any
        ) -> tuple[Tree, optax.TraceState]:
            del further
            momentum = mean(state.trace, gradients, rule.momentum)
            steps = matrices.compute_each(orthogonal, ahead(momentum, gradients, rule.momentum))

            def on_sphere(form: Form, step: NamedArray, weight: NamedArray) -> NamedArray:
                old = weight.astype(jnp.float32)
                radius = norm(old, of_matrix(form))
                moved = old - step * (learning_rate * radius / (norm(step, of_matrix(form)) + _TINY))
                return (moved * (radius / (norm(moved, of_matrix(form)) + _TINY)) - old).rearrange(weight.axes)

            return matrices.map(on_sphere, steps, params), optax.TraceState(momentum)

        return transformation(init, update)

    return beside_adamw(build, parameters, settings, rule.matrix_rate)
