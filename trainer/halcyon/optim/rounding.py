"""Adds updates to parameters, and rounds numbers to narrow types: to the nearest number, or stochastically.

An update that is less than half the distance to the next number is lost when the sum is rounded to the nearest.
Stochastic rounding goes to one of the two neighbours, to the nearer one more often, so that the mean of the result is
the sum (Gupta et al. 2015). Many small updates then move a parameter as far as they would in a wide type.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def add_updates(parameters: Any, updates: Any, key: jax.Array | None = None) -> Any:
    """The sums, in the types of the parameters.

    Args:
        parameters: A tree of arrays.
        updates: Float32 arrays with the structure of `parameters`.
        key: Random key: bfloat16 parameters are rounded stochastically, by the same numbers on every mesh. None: to the
            nearest.
    """
    if key is None:
        return optax.apply_updates(parameters, updates)
    leaves, structure = jax.tree.flatten(parameters)
    keys = jax.random.split(key, len(leaves))
    sums = [
        stochastically_rounded(leaf.astype(jnp.float32) + update, one)
        if leaf.dtype == jnp.bfloat16
        else (leaf + update).astype(leaf.dtype)
        for leaf, update, one in zip(leaves, jax.tree.leaves(updates), keys, strict=True)
    ]
    return jax.tree.unflatten(structure, sums)


def stochastically_rounded(x: jax.Array, key: jax.Array) -> jax.Array:
    """Float32 numbers in bfloat16: one of the two neighbours, with probabilities whose mean is the number."""
    # A bfloat16 number is the upper half of a float32 number. A carry out of the lower half goes to the neighbour away
    # from zero.
    bits: Any = jax.lax.bitcast_convert_type(x, jnp.uint32)
    carried = (bits + jax.random.bits(key, x.shape, jnp.uint16)) & jnp.uint32(0xFFFF0000)
    kept: Any = jax.lax.bitcast_convert_type(carried, jnp.float32)
    return jnp.where(jnp.isfinite(x), kept, x).astype(jnp.bfloat16)


def float8_stochastically_rounded(x: jax.Array, dtype: Any, key: jax.Array) -> jax.Array:
    """Float32 numbers in a type of 8 bits, like `stochastically_rounded`.

    None may be greater than the greatest number of the type.
    """
    facts = jnp.finfo(dtype)
    magnitude = jnp.abs(x)
    exponent: Any = jax.lax.bitcast_convert_type(magnitude, jnp.int32) >> 23  # of float32, with its bias
    # Neighbours are 2 ** -nmant of their power of 2 apart; below the least power their distance is constant.
    step = jnp.ldexp(jnp.float32(1), jnp.maximum(exponent - 127, facts.minexp) - facts.nmant)
    chance = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.float32) / 2**16
    return jnp.copysign(jnp.floor(magnitude / step + chance) * step, x).astype(dtype)
