"""Keeps the optimizer state and the average of the parameters in the host's memory between two updates
(``spec.trainer.offload``).

A step reads them only for its update, when its activations are no longer needed. So on a device they take turns with
the activations. The device computes the update as without offload, so no number changes; ZeRO-Offload (Ren et al. 2021)
computes it on the host's processor. The arrays have the sharding of a run without offload, in another memory of the
same devices: checkpoints and other meshes see no difference.

Scalars, such as counts, stay on the device.
"""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from halcyon.host.memory import HOST_MEMORY
from halcyon.step.state import TrainState

Tree = TypeVar("Tree")


def in_host_memory(template: TrainState) -> TrainState:
    """The template of a state whose optimizer state and average are in the host's memory.

    Args:
        template: Shapes, types and shardings of the state.
    """

    def one(leaf: Any) -> Any:
        return (
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_in_host_memory(leaf.sharding))
            if leaf.shape
            else leaf
        )

    optimizer_state, average = jax.tree.map(one, (template.optimizer_state, template.average))
    return dataclasses.replace(template, optimizer_state=optimizer_state, average=average)


def _in_host_memory(sharding: NamedSharding) -> NamedSharding:
    found = sharding.with_memory_kind(HOST_MEMORY)
    if found.memory_kind == HOST_MEMORY:
        return found
    # JAX knows no memories of GPUs that are described to the compiler (`halcyon.commands.programs.devices`). An
    # abstract mesh has all memories.
    return NamedSharding(sharding.mesh.abstract_mesh, sharding.spec, memory_kind=HOST_MEMORY)


def is_on_host(leaf: Any) -> bool:
    """Whether an array, the shape of one, or a traced array is in the host's memory."""
    return jax.typeof(leaf).memory_space == jax.memory.Space.Host


def on_devices(tree: Tree) -> Tree:
    """`tree` with all its arrays in the memory of the devices. For use inside ``jax.jit`` and outside."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device) if is_on_host(x) else x, tree)


def on_devices_after(tree: Tree, number: jax.Array) -> Tree:
    """`on_devices` inside ``jax.jit``, not before `number` is computed.

    XLA's scheduler for TPUs starts copies as early as it can, also before an optimization barrier; then the arrays
    would be on the device together with the activations. A branch that depends on `number` cannot start early.

    Args:
        tree: A state or a part of it.
        number: A scalar, not negative or NaN, that is computed from all that has to be done first.
    """
    leaves, structure = jax.tree.flatten(tree)
    held = [leaf for leaf in leaves if is_on_host(leaf)]
    if not held:
        return tree

    # It is never negative, but the compiler does not know that.
    nothing = lambda held: [jnp.zeros_like(leaf) for leaf in on_devices(held)]  # noqa: E731
    copies = iter(jax.lax.cond(number < 0, nothing, on_devices, held))
    return structure.unflatten([next(copies) if is_on_host(leaf) else leaf for leaf in leaves])


def back_in_place(tree: Tree, before: Tree) -> Tree:
    """`tree` with its arrays in the memories of those of `before`. For use inside ``jax.jit``."""
    return jax.tree.map(lambda x, old: jax.device_put(x, jax.memory.Space.Host) if is_on_host(old) else x, tree, before)
