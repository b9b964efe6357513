"""NorMuon: Muon whose update has the same size for each output of a matrix (Li et al. 2025, `arXiv 2510.05491
<https://arxiv.org/abs/2510.05491>`_).

The orthogonal update of each output is divided by the root of a mean of its squares over past steps. The norm of the
matrix stays that of the orthogonal update, so the scales of Muon and its learning rate apply.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import haliax as hax
import optax
from haliax import NamedArray

from halcyon.optim.hidden import ahead, beside_adamw, decayed, norm, of_matrix, scale
from halcyon.optim.matrices import Form, Matrices
from halcyon.optim.orthogonal import orthogonalizer
from halcyon.optim.rule import Scalar, Tree, mean, transformation, zeros
from halcyon_api.spec.rules import MatricesSpec, NorMuonSpec

_TINY = 1e-10


class NorMuonState(NamedTuple):
    """State of NorMuon."""

    momentum: Any
    """Mean of gradients, with the axes of the parameters."""
    squares: Any
    """Mean square of the orthogonal update of each output, with the stacked axes and the outputs of the parameters."""


def normuon(
    rule: NorMuonSpec, parameters: Any, shared: MatricesSpec | None = None
) -> optax.GradientTransformationExtraArgs:
    """NorMuon for hidden matrices, AdamW for the rest. See `halcyon.optim.rule`."""
    settings = shared or MatricesSpec()
    orthogonal = orthogonalizer(settings)

    def build(matrices: Matrices) -> optax.GradientTransformationExtraArgs:
        def init(params: Tree) -> NorMuonState:
            def of_outputs(form: Form, _: NamedArray) -> NamedArray:
                return hax.zeros(_outputs(form))

            return NorMuonState(zeros(params), matrices.map(of_outputs, params))

        def update(
            gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
        ) -> tuple[Tree, NorMuonState]:
            del further
            momentum = mean(state.momentum, gradients, rule.momentum)
            steps = matrices.compute_each(orthogonal, ahead(momentum, gradients, rule.momentum))
            now = matrices.map(
                lambda form, step: hax.mean(hax.square(step), form.parameter.inputs).rearrange(_outputs(form)), steps
            )
            squares = mean(state.squares, now, rule.beta2)

            def equalized(form: Form, step: NamedArray, square: NamedArray) -> NamedArray:
                divided = (step / (hax.sqrt(square) + _TINY)).rearrange(step.axes)
                factor = norm(step, of_matrix(form)) / (norm(divided, of_matrix(form)) + _TINY)
                return (divided * factor * scale(form, settings.scaling)).rearrange(step.axes)

            direction = matrices.map(equalized, steps, squares)
            changes = decayed(direction, params, learning_rate, weight_decay, cautious=settings.cautious)
            return changes, NorMuonState(momentum, squares)

        return transformation(init, update)

    return beside_adamw(build, parameters, settings)


def _outputs(form: Form) -> tuple[Any, ...]:
    return (*form.parameter.stacked, *form.parameter.outputs)
