"""SOAP and SOAP-Muon, which compute in the eigenbases of Shampoo (Vyas et al. 2024, `arXiv 2409.11321
<https://arxiv.org/abs/2409.11321>`_).

For gradients ``G`` of a matrix, ``L`` is a mean of ``G G^T`` and ``R`` a mean of ``G^T G``. Their eigenvectors are
computed once, from the first gradient. After that, one step of orthogonal iteration (a product and a QR decomposition)
follows the means (algorithm 4). A side with more than `halcyon.optim.matrices.LARGEST_SIDE` features keeps the standard
basis, as in the authors' code.

Like the authors' code, a step uses the bases of earlier gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from halcyon.optim.hidden import beside_adamw, decayed, for_hidden, orthogonalizer, scale
from halcyon.optim.matrices import Kind, Matrices
from halcyon.optim.rule import Given, Rule, Tree, mean, zeros
from halcyon_api.spec.rules import MatricesSpec, SoapMuonSpec, SoapSpec

KINDS = (Kind.LEFT, Kind.RIGHT, Kind.LEFT, Kind.RIGHT)
"""The kinds of the fields of `Bases`."""
EPSILON = 1e-8
"""Added to the root of the second moment of SOAP."""
_LEAST_SQUARE = 1e-16
"""Least square of the momentum of SOAP-Muon in the basis."""


class Bases(NamedTuple):
    """Means and eigenbases of all matrices, or of a stack of them."""

    left: Any
    """Means of ``G G^T``: [stacked..., inputs..., flat_inputs] each."""
    right: Any
    """Means of ``G^T G``: [stacked..., outputs..., flat_outputs] each."""
    left_basis: Any
    """Eigenvectors of `left`, in columns."""
    right_basis: Any
    """Eigenvectors of `right`, in columns."""


def first_bases(matrices: Matrices) -> Bases:
    """Zeros, and standard bases."""
    left, right = (matrices.new(kind, lambda form: jnp.zeros((), jnp.float32)) for kind in (Kind.LEFT, Kind.RIGHT))
    return Bases(left, right, *standard(matrices))


def standard(matrices: Matrices) -> tuple[Any, Any]:
    """The standard basis of both sides of each matrix."""

    left, right = (
        matrices.new(kind, lambda form, kind=kind: jnp.eye(form.shape(kind)[-1], dtype=jnp.float32))
        for kind in (Kind.LEFT, Kind.RIGHT)
    )
    return left, right


def into(stack: jax.Array, bases: Bases) -> jax.Array:
    """Matrices [stack, rows, columns] in the bases."""
    return both_sides(bases.left_basis.mT, stack, bases.right_basis)


def back(stack: jax.Array, bases: Bases) -> jax.Array:
    """Matrices of the bases in the standard basis."""
    return both_sides(bases.left_basis, stack, bases.right_basis.mT)


def both_sides(left: jax.Array, stack: jax.Array, right: jax.Array) -> jax.Array:
    """The product of each matrix with its factors. A factor of size 1 stands for the identity."""
    if left.shape[-1] > 1:
        stack = product(left, stack)
    return product(stack, right) if right.shape[-1] > 1 else stack


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Products of matrices in full precision on every platform."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def followed(bases: Bases, gradient: jax.Array, decay: float, count: jax.Array, every: int) -> Bases:
    """The means with one more gradient, and the bases that follow them.

    Args:
        bases: Those of a stack of matrices.
        gradient: Gradients [stack, rows, columns].
        decay: Share of the old means.
        count: Number of gradients before this one.
        every: Number of gradients between new bases.
    """
    squares = (product(gradient, gradient.mT), product(gradient.mT, gradient))
    sides = zip((bases.left, bases.right), squares, (bases.left_basis, bases.right_basis), strict=True)
    means, new = zip(*(_side(mean, square, basis, decay, count, every) for mean, square, basis in sides), strict=True)
    return Bases(*means, *new)


def _side(
    mean: jax.Array, square: jax.Array, basis: jax.Array, decay: float, count: jax.Array, every: int
) -> tuple[jax.Array, jax.Array]:
    if basis.shape[-1] == 1:
        return mean, basis
    mean = decay * mean + (1 - decay) * square

    bases = (
        lambda mean, _: jnp.linalg.eigh(mean)[1][..., ::-1],
        lambda mean, basis: jnp.linalg.qr(product(mean, basis))[0],
        lambda _, basis: basis,
    )
    which = jnp.where(count == 0, 0, jnp.where(count % every == 0, 1, 2))
    return mean, jax.lax.switch(which, bases, mean, basis)


class SoapState(NamedTuple):
    """State of SOAP."""

    done: jax.Array
    """Gradients so far, int32 scalar."""
    first: Any
    """Mean of gradients, with the axes of the parameters."""
    second: Any
    """Mean of squares of the gradients in the bases of their steps, with the shapes of the parameters."""
    bases: Bases
    """Float32."""


def soap(rule: SoapSpec, parameters: Any, shared: MatricesSpec) -> Rule:
    """SOAP (algorithm 3) for hidden matrices, AdamW for the rest. See `halcyon.optim.rule`.

    The first step only computes the bases and changes no hidden matrix, because a gradient is never projected to its
    own basis. The first moment is kept in the standard basis; so a new basis needs no change of it.
    """

    def of_stack(gradient: jax.Array, first: jax.Array, second: jax.Array, *rest: jax.Array) -> tuple[jax.Array, ...]:
        bases, count = Bases(*rest[:-1]), rest[-1]
        begun = count > 0
        first = jnp.where(begun, rule.beta1 * first + (1 - rule.beta1) * gradient, first)
        second = jnp.where(begun, rule.beta2 * second + (1 - rule.beta2) * jnp.square(into(gradient, bases)), second)
        updates = jnp.maximum(count, 1)
        mean, square = into(first, bases) / (1 - rule.beta1**updates), second / (1 - rule.beta2**updates)
        direction = back(mean / (jnp.sqrt(square) + EPSILON), bases)
        return direction, first, second, *followed(bases, gradient, rule.beta2, count, rule.every_steps)

    def build(matrices: Matrices) -> Rule:
        def update(state: Any, given: Given) -> tuple[Tree, SoapState]:
            held = [
                *((Kind.MATRIX, tree) for tree in (given.gradients, state.first, state.second)),
                *zip(KINDS, state.bases, strict=True),
            ]
            results = [Kind.MATRIX, Kind.MATRIX, Kind.MATRIX, *KINDS]
            direction, first, second, *bases = matrices.compute(of_stack, held, results, (state.done,))
            begun = (state.done > 0).astype(jnp.float32)
            begins = given._replace(learning_rate=given.learning_rate * begun)
            return decayed(direction, begins, cautious=shared.cautious), SoapState(
                state.done + 1, first, second, Bases(*bases)
            )

        return Rule(
            lambda params: SoapState(jnp.zeros((), jnp.int32), zeros(params), zeros(params), first_bases(matrices)),
            update,
        )

    return beside_adamw(build, parameters, shared)


class SoapMuonState(NamedTuple):
    """State of SOAP-Muon."""

    done: jax.Array
    """Gradients so far, int32 scalar."""
    momentum: Any
    """Mean of gradients, with the axes of the parameters."""
    second: Any
    """Mean of squares of the momentum in the bases of their steps, with the shapes of the parameters."""
    bases: Bases
    """Float32."""


def soap_muon(rule: SoapMuonSpec, parameters: Any, shared: MatricesSpec) -> Rule:
    """SOAP-Muon for hidden matrices, AdamW for the rest: Muon of the momentum that SOAP divides by its root mean square
    in the eigenbasis of Shampoo (Vyas et al. 2025, `SOAP-Muon <https://nikhilvyas.github.io/SOAP_Muon.pdf>`_). See
    `halcyon.optim.rule`.

    The second moment is that of the momentum ahead (Nesterov), as in the fastest public runs with this rule. The first
    step has no basis and is a step of Muon.
    """
    orthogonal = orthogonalizer(shared)

    def of_stack(gradient: jax.Array, step: jax.Array, second: jax.Array, *rest: jax.Array) -> tuple[jax.Array, ...]:
        bases, count = Bases(*rest[:-1]), rest[-1]
        begun = count > 0
        turned = into(step, bases)
        second = jnp.where(begun, rule.beta2 * second + (1 - rule.beta2) * jnp.square(turned), second)
        scaled = jnp.where(begun, back(turned / jnp.sqrt(jnp.maximum(second, _LEAST_SQUARE)), bases), step)
        direction = orthogonal(scaled)
        return direction, second, *followed(bases, gradient, rule.beta2, count, rule.every_steps)

    def direct(matrices: Matrices, state: Any, given: Given) -> tuple[Tree, SoapMuonState]:
        momentum = mean(state.momentum, given.gradients, rule.momentum)
        held = [
            *(
                (Kind.MATRIX, tree)
                for tree in (given.gradients, mean(momentum, given.gradients, rule.momentum), state.second)
            ),
            *zip(KINDS, state.bases, strict=True),
        ]
        steps, second, *bases = matrices.compute(of_stack, held, [Kind.MATRIX, Kind.MATRIX, *KINDS], (state.done,))
        direction = matrices.map(lambda form, step: step * scale(form, shared.scaling), steps)
        return direction, SoapMuonState(state.done + 1, momentum, second, Bases(*bases))

    return for_hidden(
        lambda matrices, params: SoapMuonState(
            jnp.zeros((), jnp.int32), zeros(params), zeros(params), first_bases(matrices)
        ),
        direct,
        parameters,
        shared,
    )
