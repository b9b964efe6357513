"""Muon: momentum whose singular values are replaced by numbers near 1 (Jordan et al. 2024, `Muon
<https://kellerjordan.github.io/posts/muon/>`_; scales and decay for large models: Liu et al. 2025, `arXiv 2502.16982
<https://arxiv.org/abs/2502.16982>`_).

A matrix of queries, keys or values is one matrix, whatever the number of its heads.
"""

from __future__ import annotations

from typing import Any

import optax

from halcyon.optim.hidden import ahead, beside_adamw, decayed, scale
from halcyon.optim.matrices import Matrices
from halcyon.optim.orthogonal import orthogonalizer
from halcyon.optim.rule import Scalar, Tree, mean, transformation, zeros
from halcyon_api.spec.rules import MatricesSpec, MuonSpec


def muon(rule: MuonSpec, parameters: Any, shared: MatricesSpec | None = None) -> optax.GradientTransformationExtraArgs:
    """Muon for hidden matrices, AdamW for the rest. See `halcyon.optim.rule`."""
    settings = shared or MatricesSpec()
    orthogonal = orthogonalizer(settings)

    def build(matrices: Matrices) -> optax.GradientTransformationExtraArgs:
        def init(params: Tree) -> optax.TraceState:
            return optax.TraceState(zeros(params))

        def update(
            gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
        ) -> tuple[Tree, optax.TraceState]:
            del further
            momentum = mean(state.trace, gradients, rule.momentum)
            steps = matrices.compute_each(
                orthogonal, ahead(momentum, gradients, rule.momentum) if rule.nesterov else momentum
            )
            direction = matrices.map(lambda form, one: one * scale(form, settings.scaling), steps)
            changes = decayed(direction, params, learning_rate, weight_decay, cautious=settings.cautious)
            return changes, optax.TraceState(momentum)

        return transformation(init, update)

    return beside_adamw(build, parameters, settings)
