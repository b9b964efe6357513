"""The update of nanochat (Karpathy 2026, `github.com/karpathy/nanochat <https://github.com/karpathy/nanochat>`_): Muon with four additions
for hidden matrices, and AdamW for groups of the other parameters.

The momentum looks one step ahead (Nesterov). Then, for each matrix:

1. each output's part gets the mean norm of all (MuonEq, `arXiv 2603.28254 <https://arxiv.org/abs/2603.28254>`_);
2. five iterations of Polar Express orthogonalise it (Amsel et al. 2025, `arXiv 2505.16932 <https://arxiv.org/abs/2505.16932>`_);
3. it gets the norm of an orthogonal matrix, sqrt(min(inputs, outputs)) (Muon+, `arXiv 2602.21545 <https://arxiv.org/abs/2602.21545>`_);
4. each output's part, or each input's if there are more inputs, is divided by the root of a mean of its squares over past steps; the norm
   stays (NorMuon, Li et al. 2025, `arXiv 2510.05491 <https://arxiv.org/abs/2510.05491>`_).

An element decays only where the update has its sign. Rate and decay are multiplied by sqrt(max(1, outputs / inputs)).
"""

from __future__ import annotations

import dataclasses
import functools
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
import optax
from haliax import Axis, NamedArray

from halcyon.errors import BadConfiguration
from halcyon.models.parameters import Role
from halcyon.optim.hidden import ahead, decayed, mean, norm, of_matrix, scale
from halcyon.optim.matrices import Form, Matrices, hidden
from halcyon.optim.orthogonal import polar_express_with_margin
from halcyon.optim.rule import Scalar, Tree, merge, select, stored, transformation, zeros
from halcyon.optim.rules.adamw import adamw
from halcyon_api.spec.rules.adamw import AdamWSpec
from halcyon_api.spec.rules.muon_adamw import AdamWGroupSpec, MuonAdamWSpec

_FIELD = "spec.optimizer.muonAdamw.groups"
_LEAST_NORM, _LEAST_SQUARE = 1e-6, 1e-10
_REST = AdamWGroupSpec(match="*")
"""The settings of the parameters of no group."""


class MatricesState(NamedTuple):
    """State of the hidden matrices."""

    momentum: Any
    """Mean of gradients, with the axes of the parameters."""
    squares: Any
    """Mean square of the orthogonal update of each output, or input: the stacked axes of the parameters, and those of that side."""


class MuonAdamWState(NamedTuple):
    """State of the rule."""

    matrices: Any
    """A `MatricesState`."""
    groups: tuple[Any, ...]
    """State of AdamW for each group, in the order of the document, and last for the rest."""


def muon_adamw(rule: MuonAdamWSpec, parameters: Any, moments: jnp.dtype) -> optax.GradientTransformationExtraArgs:
    """Muon beside AdamW. See `halcyon.optim.rule`.

    Raises:
        BadConfiguration: A group matches no parameter, or two groups match the same one.
    """
    matrices, *groups = _divided(rule, parameters)
    of_matrices = _muon(rule, Matrices(select(parameters, matrices)), moments)
    settings = (*rule.groups, _REST)
    of_groups = [
        adamw(AdamWSpec(beta1=one.beta1, beta2=one.beta2, epsilon=rule.epsilon), _decaying(select(parameters, flags)), moments)
        for one, flags in zip(settings, groups, strict=True)
    ]

    def init(params: Tree) -> MuonAdamWState:
        states = tuple(one.init(select(params, flags)) for one, flags in zip(of_groups, groups, strict=True))
        return MuonAdamWState(of_matrices.init(select(params, matrices)), states)

    def update(gradients: Tree, state: Any, params: Tree, *, learning_rate: Scalar, **arguments: Any) -> tuple[Tree, MuonAdamWState]:
        change, of_muon = of_matrices.update(
            select(gradients, matrices), state.matrices, select(params, matrices), learning_rate=learning_rate, **arguments
        )
        changes, states = [change], list[Any]()
        # Schedules of momentum and weight decay are for matrices.
        others = {name: value for name, value in arguments.items() if name not in ("momentum", "weight_decay")}
        for one, flags, transform, old in zip(settings, groups, of_groups, state.groups, strict=True):
            change, new = transform.update(
                select(gradients, flags),
                old,
                select(params, flags),
                learning_rate=learning_rate * one.learning_rate,
                weight_decay=one.weight_decay,
                **others,
            )
            changes.append(change)
            states.append(new)
        return merge(changes), MuonAdamWState(of_muon, tuple(states))

    return transformation(init, update)


def _divided(rule: MuonAdamWSpec, parameters: Any) -> list[Any]:
    """The flags of the hidden matrices, of each group, and of the rest."""
    found, structure = jax.tree_util.tree_flatten_with_path(parameters)
    paths = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in found]
    owners: list[int | None] = [None] * len(paths)
    for number, group in enumerate(rule.groups):
        members = [index for index, path in enumerate(paths) if fnmatchcase(path, group.match)]
        if not members:
            raise BadConfiguration(f"{_FIELD}[{number}]: no parameter matches {group.match}; the paths are such as {', '.join(paths[:3])}")
        for index in members:
            if owners[index] is not None:
                raise BadConfiguration(
                    f"{_FIELD}[{number}]: {paths[index]} is also in groups[{owners[index]}]; change one of the patterns, so that each "
                    "parameter is in one group"
                )
            owners[index] = number
    flags, count = jax.tree.leaves(hidden(parameters)), len(rule.groups)
    numbers = [owner if owner is not None else -1 if flag else count for owner, flag in zip(owners, flags, strict=True)]
    return [jax.tree.unflatten(structure, [number == one for number in numbers]) for one in range(-1, count + 1)]


def _decaying(parameters: Tree) -> Tree:
    """The same parameters with a role that decays: the weight decay of a group is for all of its parameters."""
    return jax.tree.map(lambda one: dataclasses.replace(one, role=Role.MATRIX), parameters)


def _muon(rule: MuonAdamWSpec, matrices: Matrices, moments: jnp.dtype) -> optax.GradientTransformationExtraArgs:
    orthogonal = functools.partial(polar_express_with_margin, dtype=rule.iteration_type)

    def init(params: Tree) -> MatricesState:
        def of_side(form: Form, _: NamedArray) -> NamedArray:
            return hax.zeros((*form.parameter.stacked, *_kept(form)), moments)

        return MatricesState(zeros(params, moments), matrices.map(of_side, params))

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
        return changes, MatricesState(stored(momentum, moments), stored(squares, moments))

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
