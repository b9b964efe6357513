"""A bit that changes in the memory of one process (``spec.recovery.audit.flipBit``), to try out an audit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from halcyon.step.state import TrainState
from halcyon_api.spec.recovery import FlipBitSpec


def flipped(spec: FlipBitSpec | None, step: int, process: int, state: TrainState) -> TrainState:
    """The state after a step in the memory of this process: with one wrong bit, if it is due.

    Args:
        spec: The bit. None: there is none.
        step: Steps done.
        process: Index of this process.
        state: The state after them.
    """
    if spec is None or (step, process) != (spec.step, spec.process):
        return state
    leaves, tree = jax.tree.flatten(state.model)
    place = next(number for number, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating))
    leaves[place] = with_wrong_bit(leaves[place])
    return eqx.tree_at(lambda whole: whole.model, state, jax.tree.unflatten(tree, leaves))


def with_wrong_bit(array: jax.Array) -> jax.Array:
    """The array with another first bit of the mantissa of its largest number on the first device of this process.

    Rounding would remove the bit of a small number in the next step.
    """
    first, *rest = array.addressable_shards
    values = np.array(first.data)
    flat, bits = values.reshape(-1), values.reshape(-1).view(f"u{values.dtype.itemsize}")
    bits[np.argmax(np.abs(flat.astype(np.float32)))] ^= 1 << (jnp.finfo(values.dtype).nmant - 1)
    local = [jax.device_put(values, first.device), *(shard.data for shard in rest)]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, local)
