"""The update of nanochat (Karpathy 2026, `github.com/karpathy/nanochat <https://github.com/karpathy/nanochat>`_): Muon
with four additions for hidden matrices, and AdamW without decay for the other parameters. nanochat's own rates, decays
and betas of these are groups of the document (`halcyon.commands.nanochat_dial.adamw_groups`).

The momentum looks one step ahead (Nesterov). Then, for each matrix:

1. each output's part gets the mean norm of all (MuonEq, `arXiv 2603.28254 <https://arxiv.org/abs/2603.28254>`_);
2. five iterations of Polar Express orthogonalise it (Amsel et al. 2025, `arXiv 2505.16932
  <https://arxiv.org/abs/2505.16932>`_);
3. it gets the norm of an orthogonal matrix, sqrt(min(inputs, outputs)) (Muon+, `arXiv 2602.21545
  <https://arxiv.org/abs/2602.21545>`_);
4. each output's part, or each input's if there are more inputs, is divided by the root of a mean of its squares over
  past steps; the norm
   stays (NorMuon, Li et al. 2025, `arXiv 2510.05491 <https://arxiv.org/abs/2510.05491>`_).

An element decays only where the update has its sign. Rate and decay are multiplied by sqrt(max(1, outputs / inputs)).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import haliax as hax
import jax
import optax
from haliax import Axis, NamedArray

from halcyon.optim.hidden import HiddenState, ahead, decayed, norm, of_matrix, scale
from halcyon.optim.matrices import Form, Matrices, hidden
from halcyon.optim.orthogonal import polar_express_with_margin
from halcyon.optim.rule import Scalar, Tree, mean, merge, select, transformation, zeros
from halcyon.optim.rules.adamw import adamw
from halcyon_api.spec.rules import AdamWSpec, MuonAdamWSpec

_LEAST_NORM, _LEAST_SQUARE = 1e-6, 1e-10
BETA1, BETA2 = 0.8, 0.95
"""Of AdamW."""


class MatricesState(NamedTuple):
    """State of the hidden matrices."""

    momentum: Any
    """Mean of gradients, with the axes of the parameters."""
    squares: Any
    """Mean square of the orthogonal update of each output, or input: the stacked axes of the parameters, and those of
    that side.
    """


def muon_adamw(rule: MuonAdamWSpec, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """Muon beside AdamW. See `halcyon.optim.rule`."""
    flags = hidden(parameters)
    against = jax.tree.map(lambda flag: not flag, flags)
    of_matrices = _muon(rule, Matrices(select(parameters, flags)))
    of_others = adamw(AdamWSpec(beta1=BETA1, beta2=BETA2, epsilon=rule.epsilon), select(parameters, against))

    def init(params: Tree) -> HiddenState:
        return HiddenState(of_matrices.init(select(params, flags)), of_others.init(select(params, against)))

    def update(gradients: Tree, state: Any, params: Tree, **arguments: Any) -> tuple[Tree, HiddenState]:
        change, matrices = of_matrices.update(
            select(gradients, flags), state.matrices, select(params, flags), **arguments
        )
        # Momentum and weight decay are those of matrices.
        others = {name: value for name, value in arguments.items() if name != "momentum"} | {"weight_decay": 0.0}
        further, rest = of_others.update(select(gradients, against), state.others, select(params, against), **others)
        return merge([change, further]), HiddenState(matrices, rest)

    return transformation(init, update)


def _muon(rule: MuonAdamWSpec, matrices: Matrices) -> optax.GradientTransformationExtraArgs:
    orthogonal = functools.partial(polar_express_with_margin, dtype=rule.iteration_type)

    def init(params: Tree) -> MatricesState:
        def of_side(form: Form, _: NamedArray) -> NamedArray:
            return hax.zeros((*form.parameter.stacked, *_kept(form)))

        return MatricesState(zeros(params), matrices.map(of_side, params))

    def update(
        gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, weight_decay: Scalar, **further: Any
    ) -> tuple[Tree, MatricesState]:
        decay: Any = further.get("momentum", rule.momentum)
        momentum = mean(state.momentum, gradients, decay)
        steps = matrices.map(_equilibrated, ahead(momentum, gradients, decay))
        steps = matrices.map(_orthogonal_norm, matrices.compute_each(orthogonal, steps))
        now = matrices.map(lambda form, step: _mean_square(form, step), steps)
        squares = mean(state.squares, now, rule.beta2)
        direction = matrices.map(_normalized, steps, squares)
        changes = decayed(direction, params, learning_rate, weight_decay, cautious=True)
        changes = matrices.map(lambda form, change: change * scale(form, "spectral"), changes)
        return changes, MatricesState(momentum, squares)

    return transformation(init, update)


def _kept(form: Form) -> tuple[Axis, ...]:
    """The axes of the outputs, or of the inputs if there are more of them."""
    return form.parameter.outputs if form.columns >= form.rows else form.parameter.inputs


def _equilibrated(form: Form, step: NamedArray) -> NamedArray:
    """The matrix with the same norm for the part of each output: the root of the mean of their squares."""
    of_outputs = hax.maximum(norm(step, form.parameter.inputs), _LEAST_NORM)
    target = norm(step, of_matrix(form)) / form.columns**0.5
    return (step * (target / of_outputs)).rearrange(step.axes)


def _orthogonal_norm(form: Form, step: NamedArray) -> NamedArray:
    target = min(form.rows, form.columns) ** 0.5
    return (step * (target / hax.maximum(norm(step, of_matrix(form)), _LEAST_NORM))).rearrange(step.axes)


def _mean_square(form: Form, step: NamedArray) -> NamedArray:
    reduced = form.parameter.inputs if form.columns >= form.rows else form.parameter.outputs
    return hax.mean(hax.square(step), reduced).rearrange((*form.parameter.stacked, *_kept(form)))


def _normalized(form: Form, step: NamedArray, squares: NamedArray) -> NamedArray:
    least: Any = hax.maximum(squares, _LEAST_SQUARE)
    divided = (step * hax.rsqrt(least)).rearrange(step.axes)
    factor = norm(step, of_matrix(form)) / hax.maximum(norm(divided, of_matrix(form)), _LEAST_SQUARE)
    return (divided * factor).rearrange(step.axes)
