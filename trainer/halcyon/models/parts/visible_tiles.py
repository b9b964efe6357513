"""The tiles of queries and keys that causal attention with documents and windows must compute.

Each query sees a run of keys: from its first key to its own position. First keys never decrease along a row, so the
tiles of keys that a tile of queries sees are a run, and so are the tiles of queries that see a tile of keys. A kernel
computes these runs alone. All other tiles would add zeros.
"""

import jax
import jax.numpy as jnp


def tiles_of_keys(first: jax.Array, queries: int, keys: int) -> jax.Array:
    """The tiles of keys that each tile of queries sees: int32 [rows, tiles of queries, 2], the first tile, and the one
    after the last. No run is empty.

    Args:
        first: First key of each query, int32 [rows, positions].
        queries: Positions of a tile of queries; divides the positions, as `keys` does.
        keys: Positions of a tile of keys.
    """
    lowest = first[:, ::queries] // keys
    ends = -(-jnp.arange(queries, first.shape[1] + 1, queries, dtype=jnp.int32) // keys)
    return jnp.stack((lowest, jnp.broadcast_to(ends, lowest.shape)), -1)


def tiles_of_queries(first: jax.Array, keys: int, queries: int) -> jax.Array:
    """The tiles of queries that see a key of each tile of keys, as `tiles_of_keys` returns them: [rows, tiles of keys,
    2].
    """
    edges = jnp.arange(keys, first.shape[1] + 1, keys, dtype=jnp.int32)
    ends = jnp.sum(first[:, None, ::queries] < edges[:, None], -1, dtype=jnp.int32)
    return jnp.stack((jnp.broadcast_to((edges - keys) // queries, ends.shape), ends), -1)


def latest_first_keys(first: jax.Array, queries: int) -> jax.Array:
    """The greatest first key of the queries of each tile: int32 [rows, tiles]. A tile of keys from it on, and not after
    the first query, is seen by all of them.
    """
    return first[:, queries - 1 :: queries]
