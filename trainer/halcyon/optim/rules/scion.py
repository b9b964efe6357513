"""Scion: each parameter moves towards the point of a ball where the momentum is greatest (Pethick et al. 2025, `arXiv
2502.07529 <https://arxiv.org/abs/2502.07529>`_).

The ball is one of a norm that fits the use of the parameter. With momentum ``m``, the step is

- for a hidden matrix (spectral norm): ``radius sqrt(outputs / inputs) orthogonal(m)``;
- for embeddings and head (largest element): ``outerRadius sign(m) / width``;
- for all others (root mean square): ``radius m / rms(m)``.

The constrained form decays every parameter by the learning rate, so that it never leaves its ball.
"""

from __future__ import annotations

import math
from typing import Any

import haliax as hax
import jax
import optax
from haliax import NamedArray

from halcyon.models.parameters import Parameter, Role
from halcyon.optim.matrices import Matrices, hidden
from halcyon.optim.orthogonal import orthogonalizer
from halcyon.optim.rule import Scalar, Tree, decaying, finish, mean, merge, select, transformation, zeros
from halcyon_api.spec.rules import MatricesSpec, ScionSpec

_OUTER = frozenset({Role.EMBEDDING, Role.HEAD})
_TINY = 1e-8


def scion(
    rule: ScionSpec, parameters: Any, shared: MatricesSpec | None = None
) -> optax.GradientTransformationExtraArgs:
    """Scion for all parameters. See `halcyon.optim.rule`."""
    flags = hidden(parameters)
    against = jax.tree.map(lambda flag: not flag, flags)
    rest = select(parameters, against)
    matrices = Matrices(select(parameters, flags))
    orthogonal = orthogonalizer(shared or MatricesSpec())
    decays = jax.tree.map(lambda _: True, parameters) if rule.constrained else decaying(parameters)

    def outside(parameter: Parameter, momentum: NamedArray) -> NamedArray:
        if parameter.role in _OUTER:
            width = parameter.outputs if parameter.role is Role.EMBEDDING else parameter.inputs
            return hax.sign(momentum) * (rule.outer_radius / math.prod(axis.size for axis in width))
        axes = (*parameter.inputs, *parameter.outputs)
        size = hax.sqrt(hax.mean(hax.square(momentum), axes)) if axes else hax.abs(momentum)
        return (momentum * rule.radius / (size + _TINY)).rearrange(momentum.axes)

    def init(params: Tree) -> optax.TraceState:
        return optax.TraceState(zeros(params))

    def update(
        gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
    ) -> tuple[Tree, optax.TraceState]:
        del further
        momentum = mean(state.trace, gradients, rule.momentum)
        steps = matrices.compute_each(orthogonal, select(momentum, flags))
        inside = matrices.map(lambda form, one: one * (rule.radius * math.sqrt(form.columns / form.rows)), steps)
        around = jax.tree.map(outside, rest, select(momentum, against))
        decay = 1.0 if rule.constrained else weight_decay
        changes = finish(merge([inside, around]), params, learning_rate * rule.matrix_rate, decay, decays)
        return changes, optax.TraceState(momentum)

    return transformation(init, update)
