"""Adam-mini (Zhang et al. 2024, algorithms 1 and 3): one second moment for each block of a parameter, the mean of its
squares.

A block is a head of queries or keys, the weights of one output of any other linear map, the vector of a token, or a
whole norm or bias.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from haliax import Axis, NamedArray

from halcyon.models.axes import HEADS, KV_HEADS, Q_HEADS_PER_GROUP
from halcyon.models.parameters import Parameter, Role
from halcyon.optim.rule import Tree, descending, mean, zeros
from halcyon_api.spec.rules import AdamMiniSpec

_HEADS = (HEADS, KV_HEADS, Q_HEADS_PER_GROUP)
_BY_HEAD = ("query", "key")
"""Beginnings of the names of modules whose outputs are queries or keys."""


def adam_mini(rule: AdamMiniSpec, parameters: Any) -> optax.GradientTransformationExtraArgs:
    """AdamW with one second moment for each block. See `halcyon.optim.rule`."""
    kept = jax.tree_util.tree_map_with_path(_block_axes, parameters)

    def init(params: Tree) -> optax.ScaleByAdamState:
        def second(parameter: Parameter, names: frozenset[str], p: NamedArray) -> NamedArray:
            del parameter
            axes = tuple(axis for axis in p.axes if axis.name in names)
            return NamedArray(jnp.zeros([axis.size for axis in axes], jnp.float32), axes)

        return optax.ScaleByAdamState(
            jnp.zeros((), jnp.int32), zeros(params), jax.tree.map(second, parameters, kept, params)
        )

    def direct(gradients: Tree, state: Any, params: Tree, **further: Any) -> tuple[Tree, optax.ScaleByAdamState]:
        del params, further
        count = optax.safe_increment(state.count)
        first_share, second_share = 1 - rule.beta1**count, 1 - rule.beta2**count

        def second(parameter: Parameter, g: NamedArray, old: NamedArray) -> NamedArray:
            del parameter
            over = tuple(number for number, axis in enumerate(g.axes) if axis not in old.axes)
            return NamedArray(
                rule.beta2 * old.array + (1 - rule.beta2) * jnp.mean(g.array * g.array, axis=over), old.axes
            )

        def scaled(parameter: Parameter, m: NamedArray, v: NamedArray) -> NamedArray:
            del parameter
            squares = v.array.reshape([axis.size if axis in v.axes else 1 for axis in m.axes])
            return NamedArray(m.array / first_share / (jnp.sqrt(squares / second_share) + rule.epsilon), m.axes)

        mu = mean(state.mu, gradients, rule.beta1)
        nu = jax.tree.map(second, parameters, gradients, state.nu)
        return jax.tree.map(scaled, parameters, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return descending(init, direct, parameters)


def _block_axes(path: Any, parameter: Parameter) -> frozenset[str]:
    """Names of the axes whose indices have a second moment each."""

    def names(axes: tuple[Axis, ...]) -> frozenset[str]:
        return frozenset(axis.name for axis in axes)

    if parameter.role in (Role.NORM, Role.BIAS):
        return names(parameter.stacked)
    if parameter.role == Role.EMBEDDING:
        return names((*parameter.stacked, *parameter.inputs))
    heads = tuple(axis for axis in parameter.outputs if axis.name in _HEADS)
    by_head = heads and any(str(getattr(entry, "name", "")).startswith(_BY_HEAD) for entry in path)
    return names((*parameter.stacked, *(heads if by_head else parameter.outputs)))
