"""The state that `bench_checkpoint` and `bench_orbax` save.

It needs only JAX, so that Orbax's environment can make it too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def make_state(megabytes: int) -> dict[str, jax.Array]:
    """Twelve matrices sharded by rows over all devices, and a few small arrays, as in a model's state."""
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    rows = megabytes * (1 << 20) // 4 // 12 // 1024
    rows -= rows % len(jax.devices())
    by_rows, everywhere = NamedSharding(mesh, PartitionSpec("fsdp")), NamedSharding(mesh, PartitionSpec())
    large = jax.jit(lambda key: jax.random.normal(key, (rows, 1024), jnp.float32), out_shardings=by_rows)
    small = jax.jit(lambda number: jnp.full((1024,), number, jnp.float32), out_shardings=everywhere)
    return {f"matrix{n}": large(jax.random.key(n)) for n in range(12)} | {f"norm{n}": small(float(n)) for n in range(6)}
