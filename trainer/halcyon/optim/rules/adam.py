"""AdamW (Loshchilov and Hutter 2019) and the rules that follow from it.

All arithmetic is float32, whatever the types of parameters and moments: each update rounds a parameter, and a stored
moment, once. The learning rate is an argument of each update, so the reported rate is the rate in use, and a step with
a dropped update counts in the schedule. The state counts only the gradients in its moments, for their bias correction;
a dropped update changes neither count nor moments.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from haliax import Axis, NamedArray
from optax.contrib import scale_by_adopt

from halcyon.models.axes import HEADS, KV_HEADS, Q_HEADS_PER_GROUP, is_named
from halcyon.models.parameters import PRODUCTS, Parameter, Role
from halcyon.optim.rule import (
    Given,
    Inner,
    Rule,
    Tree,
    decaying,
    descending,
    each,
    finish,
    frobenius_norm,
    inner_axes,
    mean,
    mean_of_rest,
    spread,
    wide,
    zeros,
    zeros_over,
)
from halcyon_api.spec import rules

_LEAST_SHARE = 1e-3
"""The share by which a cautious update is divided is at least this, as in the paper's code."""


def adamw(rule: rules.AdamWSpec, parameters: Any) -> Rule:
    """Adam with decoupled weight decay. See `halcyon.optim.rule`.

    Three options change the update before learning rate and decay, in this order:

    - ``clipUpdate`` scales the update of a parameter down to the limit of its root mean square (Shazeer and Stern 2018,
      section 6).
    - ``cautious`` keeps the elements whose gradient has the sign of the update, and scales them by the inverse of their
      share in the parameter (Liang et al. 2024, algorithm 2).
    - ``correctedDecay`` multiplies the decay by the rate over its peak (AdamC, Defazio 2025), but not for the head,
      which no norm follows.

    Optax's `scale_by_adam` has the same formula and state, but rounds in another order, so all runs would change their
    bits.
    """
    beta2, epsilon, decays, clip = rule.beta2, rule.epsilon, decaying(parameters), rule.clip_update

    def update(state: Any, given: Given) -> tuple[Tree, optax.ScaleByAdamState]:
        # A scheduled momentum is that of this step, also in the bias correction.
        beta1, count = rule.beta1 if given.momentum is None else given.momentum, optax.safe_increment(state.count)
        first = mean(state.mu, given.gradients, beta1)
        second = jax.tree.map(lambda old, g: beta2 * old + (1 - beta2) * g * g, state.nu, given.gradients)
        first_share, second_share = 1 - beta1**count, 1 - beta2**count
        direction = jax.tree.map(lambda m, v: m / first_share / (jnp.sqrt(v / second_share) + epsilon), first, second)
        kept = optax.ScaleByAdamState(count, first, second)
        if clip is not None:
            direction = each(
                lambda inner, u: u / jnp.maximum(1.0, inner.root_mean_square(u) / clip), parameters, direction
            )
        if rule.cautious:
            direction = each(_cautious, parameters, direction, given.gradients)
        if rule.corrected_decay:
            direction = corrected(direction, given)
            return finish(direction, given._replace(weight_decay=0.0), decays), kept
        return finish(direction, given, decays), kept

    def corrected(direction: Tree, given: Given) -> Tree:
        """The direction and the decay of each parameter."""
        share = given.learning_rate / given.peak_rate

        def one(parameter: Parameter, decays: bool, u: NamedArray, p: NamedArray) -> NamedArray:
            factor = given.weight_decay if parameter.role == Role.HEAD else given.weight_decay * share
            return NamedArray(u.array + factor * wide(p.array), u.axes) if decays else u

        return jax.tree.map(one, parameters, decays, direction, given.params)

    return Rule(_first_state, update)


def _first_state(params: Tree) -> Any:
    return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(params), zeros(params))


def _cautious(inner: Inner, update: jax.Array, gradient: jax.Array) -> jax.Array:
    kept = (update * gradient > 0).astype(jnp.float32)
    return update * kept / jnp.maximum(inner.mean(kept), _LEAST_SHARE)


_ON_SPHERES = PRODUCTS - {Role.ADAPTER}
"""The roles of matrices of constant norm. An adapter begins with a matrix of zeros, which must grow."""
_LEAST_NORM = 1e-10


def adam_h(rule: rules.AdamHSpec, parameters: Any) -> Rule:
    """AdamH: Adam on the sphere of each matrix's norm (Wen et al. 2025, "Fantastic Pretraining Optimizers and Where to
    Find Them 2.1"). See `halcyon.optim.rule`.

    With the direction u of Adam and the norm r of a matrix p, ``q = p - rate * r * u / |u|`` and the new matrix is ``r
    * q / |q|``. The norm does not change, so decay has no effect and there is none. The rate is ``matrixRate`` times
    the learning rate. Embeddings, norms, biases, convolutions and adapters take AdamW's update. A matrix of zeros has
    no direction and stays.
    """
    decays = decaying(parameters)
    adam = optax.scale_by_adam(rule.beta1, rule.beta2, rule.epsilon)

    def update(state: Any, given: Given) -> tuple[Tree, Any]:
        direction, after = adam.update(given.gradients, state)
        plain = finish(direction, given, decays)

        def one(parameter: Parameter, u: NamedArray, p: NamedArray, otherwise: NamedArray) -> NamedArray:
            if parameter.role not in _ON_SPHERES:
                return otherwise
            axes, weight = inner_axes(p, parameter), wide(p.array)
            size = frobenius_norm(axes, weight)
            moved = weight - rule.matrix_rate * given.learning_rate * size * u.array / jnp.maximum(
                frobenius_norm(axes, u.array), _LEAST_NORM
            )
            return NamedArray(moved * (size / jnp.maximum(frobenius_norm(axes, moved), _LEAST_NORM)) - weight, p.axes)

        changes = jax.tree.map(one, parameters, direction, given.params, plain)
        return changes, after

    return Rule(_first_state, update)


_HEADS = (HEADS, KV_HEADS, Q_HEADS_PER_GROUP)
_BY_HEAD = ("query", "key")
"""Beginnings of the names of modules whose outputs are queries or keys."""


def adam_mini(rule: rules.AdamMiniSpec, parameters: Any) -> Rule:
    """Adam-mini (Zhang et al. 2024, algorithms 1 and 3): AdamW with one second moment for each block of a parameter,
    the mean of its squares. See `halcyon.optim.rule`.

    A block is a head of queries or keys, the weights of one output of any other linear map, the vector of a token, or a
    whole norm or bias.
    """
    kept = jax.tree_util.tree_map_with_path(_block_axes, parameters)

    def init(params: Tree) -> optax.ScaleByAdamState:
        def second(names: frozenset[str], p: NamedArray) -> NamedArray:
            return zeros_over([axis for axis in p.axes if axis.name in names])

        return _first_state(params)._replace(nu=jax.tree.map(second, kept, params))

    def direct(state: Any, given: Given) -> tuple[Tree, optax.ScaleByAdamState]:
        count = optax.safe_increment(state.count)
        first_share, second_share = 1 - rule.beta1**count, 1 - rule.beta2**count

        def second(g: NamedArray, old: NamedArray) -> NamedArray:
            return mean_of_rest(old, NamedArray(g.array * g.array, g.axes), rule.beta2)

        def scaled(m: NamedArray, v: NamedArray) -> NamedArray:
            squares = spread(v, m)
            return NamedArray(m.array / first_share / (jnp.sqrt(squares / second_share) + rule.epsilon), m.axes)

        mu = mean(state.mu, given.gradients, rule.beta1)
        nu = jax.tree.map(second, given.gradients, state.nu, is_leaf=is_named)
        return jax.tree.map(scaled, mu, nu, is_leaf=is_named), optax.ScaleByAdamState(count, mu, nu)

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


class MarsState(NamedTuple):
    """The state of Adam, and the last gradient."""

    steps: jax.Array
    mu: Tree
    nu: Tree
    last: Tree


def mars(rule: rules.MarsSpec, parameters: Any) -> Rule:
    """MARS-AdamW with the gradient of the last step (Yuan et al. 2024, algorithm 2, the approximate version). See
    `halcyon.optim.rule`.

    ``c = g + gamma * beta1 / (1 - beta1) * (g - last g)``, scaled to a norm of at most 1, takes the place of the
    gradient in AdamW. In the first step c is the gradient, because the paper begins with equal points.
    """
    adam = optax.scale_by_adam(rule.beta1, rule.beta2, rule.epsilon)
    scale = rule.gamma * rule.beta1 / (1 - rule.beta1)

    def direct(state: MarsState, given: Given) -> tuple[Tree, MarsState]:
        factor = jnp.where(state.steps > 0, scale, 0.0)
        reduced = jax.tree.map(lambda g, last: g + factor * (g - wide(last)), given.gradients, state.last)
        norm = optax.tree.norm(reduced)
        reduced = jax.tree.map(lambda c: c / jnp.maximum(1.0, norm), reduced)
        direction, after = adam.update(reduced, optax.ScaleByAdamState(*state[:3]))
        return direction, MarsState(*cast(Any, after), last=given.gradients)

    return descending(lambda params: MarsState(*_first_state(params), last=zeros(params)), direct, parameters)


def adopt(rule: rules.AdoptSpec, parameters: Any) -> Rule:
    """ADOPT (Taniguchi et al. 2024, algorithm 2, with the clipping of its appendix), by Optax: Adam whose second moment
    does not contain the gradient that it divides. See `halcyon.optim.rule`.

    The first step only makes the second moment, and changes no parameter, also not by weight decay.
    """
    adam, decays = scale_by_adopt(rule.beta1, rule.beta2, rule.epsilon, mu_dtype=jnp.float32), decaying(parameters)

    def update(state: Any, given: Given) -> tuple[Tree, Any]:
        begun = (state.count > 0).astype(jnp.float32)
        direction, after = adam.update(given.gradients, state, given.params)
        return finish(direction, given._replace(learning_rate=given.learning_rate * begun), decays), after

    return Rule(lambda params: adam.init(jax.tree.map(wide, params)), update)
