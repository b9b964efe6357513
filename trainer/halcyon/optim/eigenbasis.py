"""The eigenbases of Shampoo, in which SOAP computes (Vyas et al. 2024, `arXiv 2409.11321
<https://arxiv.org/abs/2409.11321>`_).

For gradients ``G`` of a matrix, ``L`` is a mean of ``G G^T`` and ``R`` a mean of ``G^T G``. Their eigenvectors are
computed once, from the first gradient. After that, one step of orthogonal iteration (a product and a QR decomposition)
follows the means (algorithm 4). A side with more than `halcyon.optim.matrices.LARGEST_SIDE` features keeps the standard
basis, as in the authors' code.

Like the authors' code, a step uses the bases of earlier gradients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from halcyon.optim.matrices import Form, Kind, Matrices

KINDS = (Kind.LEFT, Kind.RIGHT, Kind.LEFT, Kind.RIGHT)
"""The kinds of the fields of `Bases`."""


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
    return Bases(matrices.new(Kind.LEFT, _zeros), matrices.new(Kind.RIGHT, _zeros), *standard(matrices))


def standard(matrices: Matrices) -> tuple[Any, Any]:
    """The standard basis of both sides of each matrix."""

    def fill(kind: Kind) -> Any:
        return matrices.new(kind, lambda form: jnp.eye(form.shape(kind)[-1], dtype=jnp.float32))

    return fill(Kind.LEFT), fill(Kind.RIGHT)


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

    def first(mean: jax.Array, _: jax.Array) -> jax.Array:
        return jnp.linalg.eigh(mean)[1][..., ::-1]

    def next_basis(mean: jax.Array, basis: jax.Array) -> jax.Array:
        return jnp.linalg.qr(product(mean, basis))[0]

    def same(_: jax.Array, basis: jax.Array) -> jax.Array:
        return basis

    which = jnp.where(count == 0, 0, jnp.where(count % every == 0, 1, 2))
    return mean, jax.lax.switch(which, (first, next_basis, same), mean, basis)


def _zeros(form: Form) -> jax.Array:
    del form
    return jnp.zeros((), jnp.float32)
