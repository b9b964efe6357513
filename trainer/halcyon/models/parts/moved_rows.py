"""Copies of rows to other places, whose gradients are copies too.

The gradient of a look-up is a sum at random places, which XLA computes slowly and, on some platforms, in an order that
varies. Here each row of the result, and each row of the argument, knows its counterpart, so the gradient is a look-up
as well.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@jax.custom_vjp
def moved(rows: jax.Array, sources: jax.Array, targets: jax.Array) -> jax.Array:
    """The rows at `sources`; zeros where a source is not an index of a row.

    Args:
        rows: [row, feature].
        sources: Integers [place]: the row of each place. No row may have two places.
        targets: Integers [row]: the place of each row; the number of places or more for a row without a place.

    Returns:
        [place, feature].
    """
    del targets
    return _at(rows, sources)


def _moved_forward(rows: jax.Array, sources: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _at(rows, sources), targets


def _moved_backward(targets: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, None, None]:
    return _at(cotangent, targets), None, None


moved.defvjp(_moved_forward, _moved_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def copied(rows: jax.Array, sources: jax.Array, targets: jax.Array, copies: int) -> jax.Array:
    """The rows at ``sources // copies``. Gradients of the copies of a row are added up in float32.

    Args:
        rows: [row, feature].
        sources: Integers [place]: a permutation of the places.
        targets: Integers [place]: the inverse of `sources`.
        copies: The number of places divided by the number of rows.

    Returns:
        [place, feature].
    """
    del targets
    return _at(rows, sources // copies)


def _copied_forward(
    rows: jax.Array, sources: jax.Array, targets: jax.Array, copies: int
) -> tuple[jax.Array, jax.Array]:
    return _at(rows, sources // copies), targets


def _copied_backward(copies: int, targets: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, None, None]:
    of_row = _at(cotangent, targets).reshape(-1, copies, cotangent.shape[-1])
    return jnp.sum(of_row.astype(jnp.float32), 1).astype(cotangent.dtype), None, None


copied.defvjp(_copied_forward, _copied_backward)


def _at(rows: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.take(rows, places, axis=0, mode="fill", fill_value=0)
