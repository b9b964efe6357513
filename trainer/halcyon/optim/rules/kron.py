"""Kron: PSGD with Kronecker factors (Li 2024, `arXiv 2402.04553 <https://arxiv.org/abs/2402.04553>`_).

The preconditioner of a matrix is ``P = (Q_l^T Q_l) x (Q_r^T Q_r)`` with upper triangular factors. A gradient step on
the group of such factors brings ``P`` closer to the inverse root of the gradients' second moment: with ``A = Q_l G
Q_r^T`` and ``B = Q_l^-T V Q_r^-1`` for a random ``V``, each factor moves by ``-rate triu(A A^T - B B^T) Q / |A A^T + B
B^T|`` (of the other side: ``A^T A`` and ``B^T B``). As in the author's code, the momentum takes the place of the
gradient, the first one sets the scale of the factors, the factors are balanced, and the update is clipped to a root
mean square of 1.1. A side with more than `halcyon.optim.matrices.LARGEST_SIDE` features has no factor.

The factors follow every gradient in the first 500 steps. Then they follow fewer, at last every 33rd.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.models.axes import is_named
from halcyon.optim.hidden import for_hidden
from halcyon.optim.matrices import Kind, Matrices
from halcyon.optim.rule import Given, Rule, Tree, mean, zeros
from halcyon.optim.rules.soap import both_sides, product, standard
from halcyon_api.spec.rules import KronSpec, MatricesSpec

OFTEN = 500
"""Steps in which the factors follow every gradient. Then their share of steps falls by a factor e in 1,000 steps."""

LEAST_SHARE = 0.03
"""Least share of the steps in which the factors follow."""

LARGEST_ROOT_MEAN_SQUARE = 1.1

_LEAST_FOURTH_MOMENT = 1e-24


Factors = tuple[jax.Array, jax.Array]
"""The factors of a stack of matrices."""


class KronState(NamedTuple):
    """State of Kron."""

    done: jax.Array
    """Gradients so far, int32 scalar."""
    waited: jax.Array
    """Gradients since the factors were changed, int32 scalar."""
    momentum: Any
    """Mean of gradients, with the axes of the parameters."""
    left: Any
    """Upper triangular factors, float32: [stacked..., inputs..., flat_inputs] each."""
    right: Any
    """Upper triangular factors, float32: [stacked..., outputs..., flat_outputs] each."""


def kron(rule: KronSpec, parameters: Any, shared: MatricesSpec) -> Rule:
    """Kron for hidden matrices, AdamW for the rest. See `halcyon.optim.rule`."""

    def of_stack(
        gradient: jax.Array, noise: jax.Array, left: jax.Array, right: jax.Array, count: jax.Array, due: jax.Array
    ) -> tuple[jax.Array, ...]:
        left, right = jax.lax.cond(count == 0, _first_scale, lambda _, *factors: factors, gradient, left, right)

        left, right = jax.lax.cond(
            due,
            lambda left, right: followed_factors(gradient, noise, left, right, rule.factor_rate),
            lambda *factors: factors,
            left,
            right,
        )
        direction = both_sides(product(left.mT, left), gradient, product(right.mT, right))
        size = jnp.sqrt(jnp.mean(jnp.square(direction), axis=(-2, -1), keepdims=True))
        return direction / jnp.maximum(1.0, size / LARGEST_ROOT_MEAN_SQUARE), left, right

    def init(matrices: Matrices, params: Tree) -> KronState:
        zero = jnp.zeros((), jnp.int32)
        return KronState(zero, zero, zeros(params), *standard(matrices))

    def direct(matrices: Matrices, state: Any, given: Given) -> tuple[Tree, KronState]:
        count = state.done + 1
        momentum = mean(state.momentum, given.gradients, rule.momentum)
        corrected = jax.tree.map(lambda leaf: leaf / (1 - rule.momentum**count), momentum)
        share = jnp.clip(jnp.exp(-0.001 * (count - OFTEN).astype(jnp.float32)), LEAST_SHARE, 1.0)
        due = state.waited + 1 >= 1 / share
        key = jax.random.fold_in(jax.random.key(0), state.done) if given.key is None else given.key
        noise = random_like(key, given.gradients)
        held = [(Kind.MATRIX, corrected), (Kind.MATRIX, noise), (Kind.LEFT, state.left), (Kind.RIGHT, state.right)]
        results = [Kind.MATRIX, Kind.LEFT, Kind.RIGHT]
        direction, left, right = matrices.compute(of_stack, held, results, (state.done, due))
        return direction, KronState(count, jnp.where(due, 0, state.waited + 1), momentum, left, right)

    return for_hidden(init, direct, parameters, shared, rule.matrix_rate)


def followed_factors(gradient: jax.Array, noise: jax.Array, left: jax.Array, right: jax.Array, rate: float) -> Factors:
    """The factors after one gradient.

    Args:
        gradient: Gradients [stack, rows, columns].
        noise: Normally distributed numbers of the same shape.
        left: Factors [stack, rows, rows], or [stack, 1, 1] for none.
        right: Factors [stack, columns, columns], or [stack, 1, 1].
        rate: Learning rate of the factors.
    """
    if left.shape[-1] > 1 and right.shape[-1] > 1:
        balance = jnp.sqrt(_largest(right) / _largest(left))
        left, right = left * balance, right / balance
    # A gradient of low rank would let the factors grow without limit; the noise gives it full rank.
    damping = jnp.finfo(jnp.float32).eps ** 0.5 * jnp.mean(jnp.abs(gradient), axis=(-2, -1), keepdims=True)
    a, b = both_sides(left, gradient + damping * noise, right.mT), noise
    if left.shape[-1] > 1:
        b = jax.lax.linalg.triangular_solve(left, b, left_side=True, lower=False, transpose_a=True)
    if right.shape[-1] > 1:
        b = jax.lax.linalg.triangular_solve(right, b, left_side=False, lower=False)
    return _moved(left, product(a, a.mT), product(b, b.mT), rate), _moved(
        right, product(a.mT, a), product(b.mT, b), rate
    )


def random_like(key: jax.Array, tree: Tree) -> Tree:
    """Normally distributed float32 numbers with the axes of the arrays. The same numbers on every mesh."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_named)
    drawn = [
        NamedArray(jax.random.normal(jax.random.fold_in(key, number), leaf.array.shape, jnp.float32), leaf.axis_names)
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, drawn)


def _first_scale(gradient: jax.Array, left: jax.Array, right: jax.Array) -> Factors:
    """The factors of a preconditioner that brings the first gradient to elements of about 1."""
    sides = sum(factor.shape[-1] > 1 for factor in (left, right))
    if not sides:
        return left, right
    moment = jnp.maximum(jnp.mean(gradient**4, axis=(-2, -1), keepdims=True), _LEAST_FOURTH_MOMENT)
    scale = moment ** (-1 / (8 * sides))
    return tuple(factor * scale if factor.shape[-1] > 1 else factor for factor in (left, right))  # pyright: ignore[reportReturnType]


def _moved(factor: jax.Array, towards: jax.Array, away: jax.Array, rate: float) -> jax.Array:
    if factor.shape[-1] == 1:
        return factor
    size = spectral_norm(towards + away)
    return factor - product(jnp.triu(towards - away) * (rate / jnp.maximum(size, jnp.finfo(jnp.float32).tiny)), factor)


def spectral_norm(stack: jax.Array) -> jax.Array:
    """A lower bound, tight in practice, of the largest eigenvalue of symmetric matrices without negative ones: [stack,
    1, 1].

    One and a half steps of power iteration that begin with the column of greatest norm.
    """
    largest = jnp.maximum(_largest(stack), jnp.finfo(jnp.float32).tiny)
    scaled = stack / largest
    at = jnp.argmax(jnp.sum(jnp.square(scaled), axis=-2), axis=-1)
    vector = product(scaled, jnp.take_along_axis(scaled, at[:, None, None], axis=-1))
    length = jnp.maximum(jnp.linalg.norm(vector, axis=-2, keepdims=True), jnp.finfo(jnp.float32).tiny)
    return largest * jnp.linalg.norm(product(scaled, vector / length), axis=-2, keepdims=True)


def _largest(stack: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(stack), axis=(-2, -1), keepdims=True)
