"""Runs code on each device with that device's part of the arrays, where XLA's automatic partitioning communicates too
much.

XLA decides for each product separately where its sum over devices is computed. In a loop that accumulates a gradient,
XLA reduces the part of every iteration over the network, and gathers shared arrays again in every iteration. Here a
device gathers the arrays once and accumulates its own part of a gradient over all iterations. One reduction after the
loop gives each device the sum of the part that it holds at rest.

Inside, `COMPUTE_AXES` splits the arrays: the device's own rows, ``context`` parts of their positions, ``tensor`` parts
of the vocabulary. If no mesh axis divides the work (one device, or rows that cannot be divided evenly), nothing is
sent, and the device has whole arrays.
"""

import contextlib
import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import haliax as hax
import jax
from haliax import Axis, NamedArray
from jax.sharding import Mesh, PartitionSpec

from halcyon.models.axes import BATCH, EMBED, EXPERTS, POSITION, is_named
from halcyon.models.partition import Partition, Result, Shard, partitioned
from halcyon.parallel.axes import COMPUTE_AXES, PARAMETER_AXES, POSITION_AXES_BETWEEN, AxisTable, mesh_axes, open_axes


@dataclass(frozen=True)
class MeshShard(Shard):
    """The position of one device among the devices that compute together.

    Attributes:
        sizes: The mesh axes that divide the work, with their sizes.
    """

    sizes: dict[str, int]

    def spec(self, axes: tuple[str, ...], table: AxisTable) -> PartitionSpec:
        """The partition spec by which a table divides an array with these axes among the devices."""
        return PartitionSpec(*(mesh_axes(axis, table, self.sizes) or None for axis in axes))

    def gathered(self, x: NamedArray) -> NamedArray:
        """All-gather a parameter for computation, from the part that this device holds at rest."""
        return self._at_rest(x, lambda array, names, at: jax.lax.all_gather(array, names, axis=at, tiled=True))

    def scattered(self, x: NamedArray) -> NamedArray:
        """Sum a parameter's gradient over the devices that gather it together, and return the part that this device
        holds at rest.
        """
        return self._at_rest(
            x, lambda array, names, at: jax.lax.psum_scatter(array, names, scatter_dimension=at, tiled=True)
        )

    def reduced(self, x: NamedArray) -> NamedArray:
        """Sum a parameter's gradient over all parts of the batch and of its positions; return the part that this device
        holds at rest.
        """
        split = {name for axis in x.axis_names for name in mesh_axes(axis, PARAMETER_AXES)}
        left = tuple(name for name in self._summed() if name not in split)
        part = self.scattered(x)
        return _named(x, jax.lax.psum(part.array, left)) if left else part

    def exchanged(self, axis: Axis, x: jax.Array) -> jax.Array:
        """All-to-all of the equal parts of `x`, along its first dimension, over the devices that split a logical
        axis.
        """
        names = self._splits(axis)
        return jax.lax.all_to_all(x, names, 0, 0, tiled=True) if names else x

    def sum_over_batch(self, x: jax.Array) -> jax.Array:
        """The sum over all parts of the batch and of its positions."""
        names = tuple(self._summed())
        return jax.lax.psum(x, names) if names else x

    def sum_over(self, axis: Axis, x: jax.Array) -> jax.Array:
        """The sum over all parts of a logical axis."""
        names = self._splits(axis)
        return jax.lax.psum(x, names) if names else x

    def max_over(self, axis: Axis, x: jax.Array) -> jax.Array:
        """The largest value over all parts of a logical axis; without a gradient, which JAX has no rule for."""
        names = self._splits(axis)
        return jax.lax.pmax(jax.lax.stop_gradient(x), names) if names else x

    def part(self, axis: Axis) -> tuple[Axis, jax.Array | int]:
        """This device's part of a logical axis, and the index of its first element in the whole axis."""
        names = self._splits(axis)
        size = axis.size // math.prod(self.sizes[name] for name in names)
        return axis.resize(size), jax.lax.axis_index(names) * size if names else 0

    def sent(self, axis: Axis, x: jax.Array, to: Sequence[int]) -> jax.Array:
        """See `halcyon.models.partition.Shard`."""
        names = self._splits(axis)
        return jax.lax.ppermute(x, names, list(enumerate(to))) if names else x

    def _summed(self) -> list[str]:
        """The mesh axes that a sum over tokens crosses."""
        return [name for axis in (BATCH, POSITION) for name in mesh_axes(axis, COMPUTE_AXES, self.sizes)]

    def _splits(self, axis: Axis) -> tuple[str, ...]:
        return mesh_axes(axis.name, COMPUTE_AXES, self.sizes)

    def _at_rest(self, x: NamedArray, collective: Callable[[jax.Array, tuple[str, ...], int], jax.Array]) -> NamedArray:
        """Apply a collective along each axis that only `PARAMETER_AXES` split, not `COMPUTE_AXES`."""
        array = x.array
        for at, axis in enumerate(x.axis_names):
            while_computing = mesh_axes(axis, COMPUTE_AXES)
            if names := tuple(
                name for name in mesh_axes(axis, PARAMETER_AXES, self.sizes) if name not in while_computing
            ):
                array = collective(array, names, at)
        return _named(x, array)


def by_group(
    function: Callable[[Any, Any, Any], Any],
    batch: Any,
    parameters: Any,
    shared: Any,
    *,
    gathered: bool,
) -> Any:
    """Sum ``function(batch, parameters, shared)`` over the groups of devices that each compute a part of the batch.

    A group has one index along ``replica`` and ``data``, and one along ``fsdp`` if the parameters are `gathered`. Axes
    that split parameters during the computation, such as ``expert``, stay inside a group. Inside a group XLA partitions
    automatically. Groups exchange only the parameters, before the computation, and the sums, after it.

    Args:
        function: Takes the group's part of the batch, the parameters and `shared`; returns its part of two sums: a tree
            of scalars, and a tree like the first of the parameters.
        batch: Tree of arrays [microbatches, batch, ...].
        parameters: Trees of named arrays, split by `PARAMETER_AXES`: those that the second sum is like, such as the
            trained ones, and others.
        shared: Tree of arrays of which every device has the whole.
        gathered: Whether each device holds the parameters, and their sums, unsplit over ``fsdp`` during the
            computation.

    Returns:
        The sums, split by `PARAMETER_AXES`.
    """
    sizes = _groups(gathered)
    if not sizes:
        return function(batch, parameters, shared)
    here = MeshShard(sizes)

    def one(batch: Any, parameters: Any, shared: Any) -> Any:
        scalars, sums = function(batch, _on_each_device(here.gathered, parameters), shared)
        return jax.tree.map(here.sum_over_batch, scalars), _on_each_device(here.reduced, sums)

    return _in_groups(here, one, (PartitionSpec(), _specs(here, parameters[0])), batch, parameters, shared)


def digests_by_device(
    digest: Callable[[Any], jax.Array],
    function: Callable[[Any, Any, Any], Any],
    batch: Any,
    parameters: Any,
    shared: Any,
) -> jax.Array:
    """What each device has of the two sums of `by_group` before any sum over groups, as a digest.

    Args:
        digest: Makes the words of a tree of arrays: uint32 [words].
        function: See `by_group`, with the further arguments.
        batch: See `by_group`.
        parameters: See `by_group`.
        shared: See `by_group`.

    Returns:
        uint32 [*sizes of the mesh axes, words].
    """

    def one(*parts: Any) -> jax.Array:
        return _digests(digest, function(*parts))

    if not (sizes := _groups(gathered=False)):
        return one(batch, parameters, shared)
    return _in_groups(MeshShard(sizes), one, _by_device(sizes), batch, parameters, shared)


def _groups(gathered: bool) -> dict[str, int]:
    """The mesh axes that divide the devices of the context into the groups of `by_group`, with their sizes; empty:
    there is one group.
    """
    inside = {*mesh_axes(EXPERTS, COMPUTE_AXES), *(() if gathered else mesh_axes(EMBED, PARAMETER_AXES))}
    names = [name for name in mesh_axes(BATCH, COMPUTE_AXES) if name not in inside]
    return {name: size for name, size in open_axes().items() if name in names and size > 1}


def _in_groups(here: MeshShard, one: Callable[..., Any], out: Any, batch: Any, parameters: Any, shared: Any) -> Any:
    in_specs = PartitionSpec(None, tuple(here.sizes)), _specs(here, parameters), PartitionSpec()
    return _on_parts(one, here.sizes, in_specs, out)(batch, parameters, shared)


def _on_parts(function: Callable[..., Any], axes: Iterable[str], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` of each device's parts along some mesh axes."""

    def run(*parts: Any) -> Any:
        with computing_here():
            return function(*parts)

    return jax.shard_map(run, in_specs=in_specs, out_specs=out_specs, axis_names=set(axes), check_vma=False)


def _by_device(names: Container[str]) -> PartitionSpec:
    """The partition spec of an array with an axis for each mesh axis, split by those with these names."""
    every = jax.sharding.get_abstract_mesh().axis_names
    return PartitionSpec(*(name if name in names else None for name in every))


def _digests(digest: Callable[[Any], jax.Array], tree: Any) -> jax.Array:
    """The digest of each device's part of a tree of named arrays and of scalars that all devices of a group have."""
    open_here, leading = open_axes(), (1,) * len(jax.sharding.get_abstract_mesh().axis_names)

    def one(tree: Any) -> jax.Array:
        return digest(tree).reshape(*leading, -1)

    return _on_parts(one, open_here, (_specs(MeshShard(open_here), tree),), _by_device(open_here))(tree)


def _on_each_device(function: Callable[[NamedArray], NamedArray], parameters: Any) -> Any:
    """Apply a function with a collective to every parameter, on each device's part of it.

    XLA does not partition a collective between groups automatically: it would first copy the whole array to every
    device of a group.
    """
    open_here = open_axes()
    specs = _specs(MeshShard(open_here), parameters)

    def each(parameters: Any) -> Any:
        return jax.tree.map(function, parameters, is_leaf=is_named)

    return _on_parts(each, open_here, (specs,), specs)(parameters)


def _specs(here: MeshShard, tree: Any, table: AxisTable = PARAMETER_AXES) -> Any:
    """The partition specs of named arrays, and of scalars that every device has."""
    return jax.tree.map(
        lambda x: here.spec(x.axis_names, table) if is_named(x) else PartitionSpec(), tree, is_leaf=is_named
    )


LONGEST_UNROLLED = 8
"""Largest number of iterations to unroll.

An unrolled loop compiles more slowly and is larger; it saves a part of a restart.
"""


class MeshPartition(Partition):
    """Implements `halcyon.models.partition.Partition` for the mesh of the context."""

    def by_device(
        self,
        function: Callable[[Shard, Any, Any], Any],
        activations: Any,
        parameters: Any,
        results: Any,
        *,
        kernel: bool,
    ) -> Any:
        """See `halcyon.models.partition.by_device`.

        Activations are split by `COMPUTE_AXES`, parameters by `PARAMETER_AXES`.
        """
        open_here = open_axes()
        sizes = {name: size for name, size in open_here.items() if size > 1}
        # Inside a group of `by_group`, JAX rejects a TPU's kernel while any axis is left to XLA, also one of size 1.
        left = kernel and 0 < len(open_here) < len(jax.sharding.get_abstract_mesh().axis_names)
        if (
            not (sizes or left)
            or not _divides(sizes, BATCH, activations)
            or not _divides(sizes, POSITION, activations, absent=True)
        ):
            return function(MeshShard({}), activations, parameters)
        shard = MeshShard(sizes)

        in_specs = _specs(shard, activations, COMPUTE_AXES), _specs(shard, parameters)
        out_specs = jax.tree.map(
            lambda result: shard.spec(result.axes, PARAMETER_AXES if result.parameter else COMPUTE_AXES),
            results,
            is_leaf=lambda leaf: isinstance(leaf, Result),
        )
        return _on_parts(partial(function, shard), open_here, in_specs, out_specs)(activations, parameters)

    def divided(self, x: NamedArray) -> NamedArray:
        """Constrain an activation to `COMPUTE_AXES`.

        Between attention and MLP an activation has no axis that ``tensor`` splits. So ``tensor`` splits its positions
        there: the devices share the work of norms and sums instead of repeating it (Korthikanti et al. 2022).
        """
        sizes, table = open_axes(), hax.partitioning.current_thread_local_mapping() or {}
        names = {
            axis: tuple(name for name in mesh_axes(axis, table) if sizes.get(name, 1) > 1) for axis in x.axis_names
        }
        used = {name for split in names.values() for name in split}
        further = tuple(name for name in POSITION_AXES_BETWEEN if sizes.get(name, 1) > 1 and name not in used)
        if not further or POSITION not in x.axis_names or BATCH not in x.axis_names:
            return hax.auto_sharded(x)
        together = (*names[POSITION], *further)
        if x.resolve_axis(POSITION).size % math.prod(sizes[name] for name in together):
            return hax.auto_sharded(x)
        spec = PartitionSpec(*((together if axis == POSITION else names[axis]) or None for axis in x.axis_names))
        return _named(x, jax.lax.with_sharding_constraint(x.array, spec))

    def parts_of(self, axis: Axis) -> int:
        """Number of parts into which the context divides an axis of an activation."""
        sizes, table = open_axes(), hax.partitioning.current_thread_local_mapping() or {}
        return math.prod(sizes.get(name, 1) for name in mesh_axes(axis.name, table))

    def unroll(self, iterations: int) -> bool:
        """True on CPU with several processes, up to `LONGEST_UNROLLED` iterations.

        XLA's CPU programs from a compilation cache keep the order of their collectives, except for collectives inside a
        loop.
        """
        return jax.default_backend() == "cpu" and jax.process_count() > 1 and iterations <= LONGEST_UNROLLED


def _divides(sizes: dict[str, int], axis: str, activations: Any, *, absent: bool = False) -> bool:
    """Whether mesh axes of these sizes divide a logical axis of all activations evenly; `absent`: the answer if none
    has the axis.
    """
    sizes_of_axis = {
        x.resolve_axis(axis).size for x in jax.tree.leaves(activations, is_leaf=is_named) if axis in x.axis_names
    }
    parts = math.prod(size for name, size in sizes.items() if name in mesh_axes(axis, COMPUTE_AXES))
    return not any(size % parts for size in sizes_of_axis) if sizes_of_axis else absent


@contextlib.contextmanager
def computing(mesh: Mesh) -> Iterator[None]:
    """The context in which a model is traced: `halcyon.models.partition.divided` in it constrains activations by
    `COMPUTE_AXES`."""
    with hax.partitioning.set_mesh(mesh), hax.axis_mapping(COMPUTE_AXES), partitioned(MeshPartition()):
        yield


@contextlib.contextmanager
def computing_here() -> Iterator[None]:
    """The context of `computing` for code that runs by device: its table has only the axes that XLA partitions
    automatically.
    """
    sizes, table = open_axes(), hax.partitioning.current_thread_local_mapping() or {}
    with hax.axis_mapping({axis: mesh_axes(axis, table, sizes) for axis in table}):
        yield


def _named(x: NamedArray, array: jax.Array) -> NamedArray:
    """`array` with the axis names of `x` and with its own sizes."""
    return NamedArray(array, x.axis_names)
