"""The single table from logical axes, which models use, to mesh axes.

Models use only axis names and do not depend on the mesh. `PARAMETER_AXES` shards a parameter's axes at rest (in the
training state, in gradients, in checkpoints); `COMPUTE_AXES` shards an activation's axes during a step. ``embed`` is
sharded over ``fsdp`` at rest but not in computation, so XLA gathers a block's weights just before their use and
scatters their gradients after it (ZeRO stage 3, Rajbhandari et al. 2020). ``tensor`` splits heads, MLP and vocabulary
in both (Shoeybi et al. 2019), and the positions of activations between them. ``expert`` splits the experts in both, and
the batch: each device sends its tokens to the devices of their experts (Lepikhin et al. 2020). ``context`` splits the
positions of activations; attention passes keys and values around it (`halcyon.models.parts.ring_attention`).
"""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from haliax import Axis
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from halcyon.models.axes import BATCH, EMBED, EXPERTS, HEADS, KV_HEADS, MLP, POSITION, VOCAB, is_named
from halcyon.models.parameters import dotted
from halcyon_api.spec.mesh import LogicalAxis, splitting

AxisTable = Mapping[str, str | tuple[str, ...]]
"""Mesh axis or axes for each logical axis. An absent axis is not sharded."""

_BOTH: Mapping[str, LogicalAxis] = {
    HEADS: "heads",
    KV_HEADS: "heads",
    MLP: "features",
    VOCAB: "vocabulary",
    EXPERTS: "experts",
}
"""The axes of both parameters and activations, with their names in `halcyon_api.spec.mesh`."""


def _split(axes: Mapping[str, LogicalAxis]) -> AxisTable:
    """The mesh axes that split each axis."""
    found = {name: tuple(row.name for row in splitting(logical)) for name, logical in axes.items()}
    return {name: names[0] if len(names) == 1 else names for name, names in found.items() if names}


PARAMETER_AXES: AxisTable = _split({EMBED: "parameters", **_BOTH})
"""Parameters, gradients and optimizer state."""

COMPUTE_AXES: AxisTable = _split({BATCH: "batch", POSITION: "position", **_BOTH})
"""Activations, tokens and losses."""

POSITION_AXES_BETWEEN: tuple[str, ...] = tuple(row.name for row in splitting("features"))
"""Mesh axes that also split the positions of activations whose other axes they do not split: those between attention
and MLP.
"""


def named_sharding(mesh: Mesh, axes: tuple[str, ...], table: AxisTable = COMPUTE_AXES) -> NamedSharding:
    """The sharding of an array with these axes."""
    return NamedSharding(mesh, PartitionSpec(*(table.get(axis) for axis in axes)))


def shardings(tree: Any, mesh: Mesh, table: AxisTable = PARAMETER_AXES) -> Any:
    """The sharding of every leaf of `tree`, in a tree of the same structure, for ``out_shardings`` of ``jax.jit``.

    Args:
        tree: NamedArrays are sharded by their axes, all other arrays (counters, keys) are replicated. Shapes are
            sufficient.
        mesh: The device mesh.
        table: Mesh axes by logical axis.
    """
    replicated = NamedSharding(mesh, PartitionSpec())

    def one(leaf: Any) -> Any:
        if not is_named(leaf):
            return replicated
        return jax.tree.map(lambda _: named_sharding(mesh, leaf.axis_names, table), leaf)

    return jax.tree.map(one, tree, is_leaf=is_named)


def with_shardings(tree: Any, mesh: Mesh) -> Any:
    """`tree` as ``jax.ShapeDtypeStruct`` leaves with shardings: the template for the restore of a checkpoint."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh),
    )


def constrain(tree: Any, mesh: Mesh) -> Any:
    """Constrain every leaf to its sharding, such as gradients to that of their parameters.

    For use inside ``jax.jit``.
    """
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings(tree, mesh))


@dataclass(frozen=True)
class Undivided:
    """An axis of a parameter that a mesh axis does not divide."""

    path: str
    axis: Axis
    mesh_axis: str
    parts: int


def undivided(tree: Any, mesh: Mesh) -> Undivided | None:
    """The first axis of a named array in `tree` whose size is no multiple of its mesh axes; None if there is none."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_named)[0]:
        for axis in leaf.axes if is_named(leaf) else ():
            names = mesh_axes(axis.name, PARAMETER_AXES)
            parts = math.prod(mesh.shape[name] for name in names)
            if axis.size % parts:
                return Undivided(dotted(path), axis, " x ".join(names), parts)
    return None


def mesh_axes(axis: str, table: AxisTable, among: Container[str] | None = None) -> tuple[str, ...]:
    """The mesh axes that split a logical axis; of these only those in `among`, if it is given."""
    physical = table.get(axis, ())
    names = (physical,) if isinstance(physical, str) else physical
    return names if among is None else tuple(name for name in names if name in among)


def open_axes() -> dict[str, int]:
    """The mesh axes of the context that XLA partitions automatically, with their sizes; empty outside `computing`."""
    mesh = jax.sharding.get_abstract_mesh()
    return {
        name: mesh.shape[name]
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind == AxisType.Auto
    }


def constrain_here(tree: Any) -> Any:
    """`constrain` for code that runs by group: constrains every named array over the axes that XLA partitions
    automatically.
    """
    sizes = open_axes()

    def one(x: Any) -> Any:
        if not sizes or not is_named(x):
            return x
        spec = PartitionSpec(*(mesh_axes(axis, PARAMETER_AXES, sizes) or None for axis in x.axis_names))
        return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, spec), x)

    return jax.tree.map(one, tree, is_leaf=is_named)
