"""Muon, and the rules that make the momentum of hidden matrices orthogonal in other ways.

A matrix of queries, keys or values is one matrix, whatever the number of its heads.
"""

import functools
import math
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
import optax
from haliax import Axis, NamedArray

from halcyon.models.parameters import Parameter, Role
from halcyon.optim.hidden import (
    beside,
    beside_adamw,
    decayed,
    for_hidden,
    orthogonalizer,
    polar_express_with_margin,
    scale,
)
from halcyon.optim.matrices import Matrices, MatrixShape, hidden
from halcyon.optim.rule import Given, Rule, Tree, decaying, finish, mean, merge, select, zeros
from halcyon_api.spec.rules import AdamWSpec, MatricesSpec, MuonAdamWSpec, MuonHSpec, MuonSpec, NorMuonSpec, ScionSpec

BETA1, BETA2 = 0.8, 0.95
"""Of AdamW beside the rule of nanochat."""
_TINY = 1e-10
"""Added to a norm or a root that something is divided by."""
_LEAST_NORM, _LEAST_SQUARE = 1e-6, 1e-10
"""The same in the rule of nanochat."""
_OUTER = frozenset({Role.EMBEDDING, Role.HEAD})
_LEAST_SIZE = 1e-8


class NormalizedState(NamedTuple):
    """State of a rule that normalizes the parts of outputs, or inputs."""

    momentum: Any
    """Mean of gradients, with the axes of the parameters."""
    squares: Any
    """Mean square of the orthogonal update of each output, or input: the stacked axes of the parameters, and those of
    that side.
    """


def muon(rule: MuonSpec, parameters: Any, shared: MatricesSpec) -> Rule:
    """Muon: momentum whose singular values are replaced by numbers near 1 (Jordan et al. 2024, `Muon
    <https://kellerjordan.github.io/posts/muon/>`_; scales and decay for large models: Liu et al. 2025, `arXiv
    2502.16982 <https://arxiv.org/abs/2502.16982>`_), beside AdamW. See `halcyon.optim.rule`.

    Optax's Muon divides the momentum by its share at the start, which the sources do not, and computes every matrix on
    every device.
    """
    orthogonal = orthogonalizer(shared)

    def direct(matrices: Matrices, state: Any, given: Given) -> tuple[Tree, optax.TraceState]:
        momentum = mean(state.trace, given.gradients, rule.momentum)
        ahead = mean(momentum, given.gradients, rule.momentum) if rule.nesterov else momentum
        steps = matrices.compute_each(orthogonal, ahead)
        return matrices.map(lambda form, step: step * scale(form, shared.scaling), steps), optax.TraceState(momentum)

    return for_hidden(lambda _, params: optax.TraceState(zeros(params)), direct, parameters, shared)


def normuon(rule: NorMuonSpec, parameters: Any, shared: MatricesSpec) -> Rule:
    """NorMuon: Muon whose update has the same size for each output of a matrix (Li et al. 2025, `arXiv 2510.05491
    <https://arxiv.org/abs/2510.05491>`_), beside AdamW. See `halcyon.optim.rule`.

    The orthogonal update of each output is divided by the root of a mean of its squares over past steps. The norm of
    the matrix stays that of the orthogonal update, so the scales of Muon and its learning rate apply.
    """
    orthogonal = orthogonalizer(shared)

    def mean_square(form: MatrixShape, step: NamedArray) -> NamedArray:
        return hax.mean(hax.square(step), form.parameter.inputs).rearrange(_outputs(form))

    def equalized(form: MatrixShape, step: NamedArray, square: NamedArray) -> NamedArray:
        divided = (step / (hax.sqrt(square) + _TINY)).rearrange(step.axes)
        factor = form.norm(step) / (form.norm(divided) + _TINY)
        return (divided * factor * scale(form, shared.scaling)).rearrange(step.axes)

    def direct(matrices: Matrices, state: Any, given: Given) -> tuple[Tree, NormalizedState]:
        momentum = mean(state.momentum, given.gradients, rule.momentum)
        steps = matrices.compute_each(orthogonal, mean(momentum, given.gradients, rule.momentum))
        squares = mean(state.squares, matrices.map(mean_square, steps), rule.beta2)
        return matrices.map(equalized, steps, squares), NormalizedState(momentum, squares)

    return for_hidden(
        lambda matrices, params: NormalizedState(
            zeros(params), matrices.map(lambda form, _: hax.zeros(_outputs(form)), params)
        ),
        direct,
        parameters,
        shared,
    )


def _outputs(form: MatrixShape) -> tuple[Axis, ...]:
    return (*form.parameter.stacked, *form.parameter.outputs)


def muon_h(rule: MuonHSpec, parameters: Any, shared: MatricesSpec) -> Rule:
    """MuonH: Muon on a sphere (Wen et al. 2025, `Hyperball
    <https://psychedelic-sunstone-851.notion.site/Fantastic-Pretraining-Optimizers-and-Where-to-Find-Them-2-1-Hyperball-Optimization-2e924306e6f280e7a5ffee00eb40a0dd>`_),
    beside AdamW. See `halcyon.optim.rule`.

    Each matrix keeps its Frobenius norm. The learning rate is the length of a step as a share of that norm. Weight
    decay has no effect on a matrix of fixed norm, so there is none.
    """
    orthogonal = orthogonalizer(shared)

    def build(matrices: Matrices) -> Rule:
        def update(state: Any, given: Given) -> tuple[Tree, optax.TraceState]:
            momentum = mean(state.trace, given.gradients, rule.momentum)
            steps = matrices.compute_each(orthogonal, mean(momentum, given.gradients, rule.momentum))

            def on_sphere(form: MatrixShape, step: NamedArray, weight: NamedArray) -> NamedArray:
                wide = weight.astype(jnp.float32)
                radius = form.norm(wide)
                moved = wide - step * (given.learning_rate * radius / (form.norm(step) + _TINY))
                return (moved * (radius / (form.norm(moved) + _TINY)) - wide).rearrange(weight.axes)

            return matrices.map(on_sphere, steps, given.params), optax.TraceState(momentum)

        return Rule(lambda params: optax.TraceState(zeros(params)), update)

    return beside_adamw(build, parameters, shared, rule.matrix_rate)


def muon_adamw(rule: MuonAdamWSpec, parameters: Any) -> Rule:
    """The update of nanochat (Karpathy 2026, `github.com/karpathy/nanochat <https://github.com/karpathy/nanochat>`_):
    Muon with four additions for hidden matrices, and AdamW without decay for the other parameters. nanochat's own
    rates, decays and betas of these are groups of the document (`halcyon.commands.dial.adamw_groups`). See
    `halcyon.optim.rule`.

    The momentum looks one step ahead (Nesterov). Then, for each matrix:

    1. each output's part gets the mean norm of all (MuonEq, `arXiv 2603.28254 <https://arxiv.org/abs/2603.28254>`_);
    2. five iterations of Polar Express orthogonalise it (Amsel et al. 2025, `arXiv 2505.16932
      <https://arxiv.org/abs/2505.16932>`_);
    3. it gets the norm of an orthogonal matrix, sqrt(min(inputs, outputs)) (Muon+, `arXiv 2602.21545
      <https://arxiv.org/abs/2602.21545>`_);
    4. each output's part, or each input's if there are more inputs, is divided by the root of a mean of its squares
      over past steps; the norm stays (NorMuon).

    An element decays only where the update has its sign. Rate and decay are multiplied by sqrt(max(1, outputs /
    inputs)).
    """
    others = AdamWSpec(beta1=BETA1, beta2=BETA2, epsilon=rule.epsilon)

    return beside(
        functools.partial(_nanochat, rule),
        others,
        parameters,
        lambda given: given,
        lambda given: given._replace(momentum=None, weight_decay=0.0),  # they are those of matrices
    )


def _nanochat(rule: MuonAdamWSpec, matrices: Matrices) -> Rule:
    orthogonal = functools.partial(polar_express_with_margin, dtype=rule.iteration_type)

    def init(params: Tree) -> NormalizedState:
        return NormalizedState(zeros(params), matrices.map(lambda form, _: hax.zeros(_larger_side(form)), params))

    def update(state: Any, given: Given) -> tuple[Tree, NormalizedState]:
        decay = rule.momentum if given.momentum is None else given.momentum
        momentum = mean(state.momentum, given.gradients, decay)
        steps = matrices.map(_equilibrated, mean(momentum, given.gradients, decay))
        steps = matrices.map(_orthogonal_norm, matrices.compute_each(orthogonal, steps))
        squares = mean(state.squares, matrices.map(_mean_square, steps), rule.beta2)
        direction = matrices.map(_normalized, steps, squares)
        changes = decayed(direction, given, cautious=True)
        changes = matrices.map(lambda form, change: change * scale(form, "spectral"), changes)
        return changes, NormalizedState(momentum, squares)

    return Rule(init, update)


def _larger_side(form: MatrixShape) -> tuple[Axis, ...]:
    """The stacked axes, and those of the outputs, or of the inputs if there are more of them."""
    return _outputs(form) if form.columns >= form.rows else (*form.parameter.stacked, *form.parameter.inputs)


def _equilibrated(form: MatrixShape, step: NamedArray) -> NamedArray:
    """The matrix with the same norm for the part of each output: the root of the mean of their squares."""
    of_outputs = hax.maximum(hax.sqrt(hax.sum(hax.square(step), form.parameter.inputs)), _LEAST_NORM)
    target = form.norm(step) / form.columns**0.5
    return (step * (target / of_outputs)).rearrange(step.axes)


def _orthogonal_norm(form: MatrixShape, step: NamedArray) -> NamedArray:
    target = min(form.rows, form.columns) ** 0.5
    return (step * (target / hax.maximum(form.norm(step), _LEAST_NORM))).rearrange(step.axes)


def _mean_square(form: MatrixShape, step: NamedArray) -> NamedArray:
    reduced = form.parameter.inputs if form.columns >= form.rows else form.parameter.outputs
    return hax.mean(hax.square(step), reduced).rearrange(_larger_side(form))


def _normalized(form: MatrixShape, step: NamedArray, squares: NamedArray) -> NamedArray:
    least: Any = hax.maximum(squares, _LEAST_SQUARE)
    divided = (step * hax.rsqrt(least)).rearrange(step.axes)
    factor = form.norm(step) / hax.maximum(form.norm(divided), _LEAST_SQUARE)
    return (divided * factor).rearrange(step.axes)


def scion(rule: ScionSpec, parameters: Any, shared: MatricesSpec) -> Rule:
    """Scion: each parameter moves towards the point of a ball where the momentum is greatest (Pethick et al. 2025,
    `arXiv 2502.07529 <https://arxiv.org/abs/2502.07529>`_). See `halcyon.optim.rule`.

    The ball is one of a norm that fits the use of the parameter. With momentum ``m``, the step is

    - for a hidden matrix (spectral norm): ``radius sqrt(outputs / inputs) orthogonal(m)``;
    - for embeddings and head (largest element): ``outerRadius sign(m) / width``;
    - for all others (root mean square): ``radius m / rms(m)``.

    The constrained form decays every parameter by the learning rate, so that it never leaves its ball.
    """
    flags = hidden(parameters)
    against = jax.tree.map(lambda flag: not flag, flags)
    rest = select(parameters, against)
    matrices = Matrices(select(parameters, flags))
    orthogonal = orthogonalizer(shared)
    decays = jax.tree.map(lambda _: True, parameters) if rule.constrained else decaying(parameters)

    def outside(parameter: Parameter, momentum: NamedArray) -> NamedArray:
        if parameter.role in _OUTER:
            width = parameter.outputs if parameter.role is Role.EMBEDDING else parameter.inputs
            return hax.sign(momentum) * (rule.outer_radius / math.prod(axis.size for axis in width))
        axes = (*parameter.inputs, *parameter.outputs)
        size = hax.sqrt(hax.mean(hax.square(momentum), axes)) if axes else hax.abs(momentum)
        return (momentum * rule.radius / (size + _LEAST_SIZE)).rearrange(momentum.axes)

    def update(state: Any, given: Given) -> tuple[Tree, optax.TraceState]:
        momentum = mean(state.trace, given.gradients, rule.momentum)
        steps = matrices.compute_each(orthogonal, select(momentum, flags))
        inside = matrices.map(lambda form, step: step * (rule.radius * math.sqrt(form.columns / form.rows)), steps)
        around = jax.tree.map(outside, rest, select(momentum, against))
        decay = 1.0 if rule.constrained else given.weight_decay
        scaled = given._replace(learning_rate=given.learning_rate * rule.matrix_rate, weight_decay=decay)
        return finish(merge([inside, around]), scaled, decays), optax.TraceState(momentum)

    return Rule(lambda params: optax.TraceState(zeros(params)), update)
