"""Watches parameters, gradients, updates and activations: norm, RMS and histogram of each array, layer by layer.

The watched step is a second compiled program, which computes these numbers beside the step, on the arrays that the step
has in any case. So the steps between pay nothing. The number of a step decides which program it uses, so a resumed run
uses the same ones. Each number is a reduction over one array, and only the reduced numbers leave the device.

The numbers of gradients, parameters and updates are computed inside a condition that is always true. Without it, the
compiler fuses each reduction with what makes its input: it then computes the update rule again for each number, and
rounds the update in another way. The watched step holds all updates at once, float32.

A name is ``WHAT/STATISTIC/PATH``, such as ``gradients/rms/blocks.mlp.up.weight``. The path of activations is that of a
stack, such as ``blocks``. The value has one number for each layer, or is a scalar for a parameter that no layers share;
a histogram has its bins as its last axis.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from haliax import NamedArray

from halcyon.checkpoint.layout import Leaf, flatten
from halcyon.models.axes import LAYERS
from halcyon.models.stack import activation_statistics
from halcyon.models.statistics import bin_counts, block_of
from halcyon.parallel.axes import PARAMETER_AXES, mesh_axes, open_axes
from halcyon_api.spec.telemetry import WatchSpec

Numbers = dict[str, jax.Array]
"""Numbers by name."""


class Watched(NamedTuple):
    """The arrays of a watched step. The first three are trees with the structure of the model."""

    parameters: Any
    """Before the update."""
    gradients: Any
    """Before clipping."""
    updates: Any
    """What the update rule adds to the parameters."""
    activations: Mapping[str, NamedArray]
    """The sums over the outputs of the blocks: the gradient of `halcyon.models.stack.empty_slots`.

    Empty: they are not watched.
    """


def watched(spec: WatchSpec, arrays: Watched, step: jax.Array) -> Numbers:
    """The numbers of a watched step. For use inside ``jax.jit``.

    - ``norm``: the square root of the sum of squares; ``rms``: of the mean of squares.
    - ``histogram``: the share of elements in each bin of magnitudes, float32 [bins]. Elements that are not a number are
      in no bin.
    - ``updates/ratio``: the norm of the update divided by the norm of the parameter before it; 0 for a parameter of
      zeros.

    Args:
        spec: ``spec.telemetry.watch`` of the run.
        arrays: The arrays.
        step: Steps done before this one, int32 scalar.
    """
    needed = {*spec.what, *(["parameters"] if "updates" in spec.what else [])}
    trees = {name: getattr(arrays, name) for name in ("parameters", "gradients", "updates") if name in needed}
    # A branch with sums over devices cannot be kept for a restart in a program of several processes on CPU
    # (`halcyon.step.compilation`).
    if jax.default_backend() != "cpu" or jax.process_count() == 1:
        shapes = jax.eval_shape(lambda: _of_trees(spec, trees))

        found: Numbers = jax.lax.cond(
            step >= 0,
            lambda trees: _of_trees(spec, trees),
            lambda _: jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shapes),
            trees,
        )
    else:
        found = _of_trees(spec, trees)
    return found | {f"activations/{name}": value for name, value in activation_statistics(arrays.activations).items()}


def _of_trees(spec: WatchSpec, trees: Mapping[str, Any]) -> Numbers:
    found: Numbers = {}
    for what in (one for one in spec.what if one != "activations"):
        for path, values, axes, block in _leaves(trees[what]):
            squares = jnp.sum(jnp.square(values), axes)
            found[f"{what}/norm/{path}"] = jnp.sqrt(squares)
            found[f"{what}/rms/{path}"] = jnp.sqrt(squares / max(1, values.size // max(1, squares.size)))
            if spec.histograms:
                found[f"{what}/histogram/{path}"] = _histogram(values, axes, block)
    if "updates" in spec.what:
        for path, values, axes, _ in _leaves(trees["parameters"]):
            weight = found.get(f"parameters/norm/{path}")
            if weight is None:
                weight = jnp.sqrt(jnp.sum(jnp.square(values), axes))
            update = found[f"updates/norm/{path}"]
            found[f"updates/ratio/{path}"] = jnp.where(weight > 0, update / jnp.where(weight > 0, weight, 1.0), 0.0)
    return found


def _leaves(tree: Any) -> Iterator[tuple[str, jax.Array, tuple[int, ...], tuple[int, int] | None]]:
    """The path, the values in float32, the reduced axes and the block of each array.

    The reduced axes are all but that of the layers.
    """
    for leaf in flatten(tree):
        axes = tuple(number for number in range(len(leaf.shape)) if leaf.axes is None or leaf.axes[number] != LAYERS)
        yield leaf.path, leaf.value.astype(jnp.float32), axes, _block(leaf, axes)


def _block(leaf: Leaf, axes: tuple[int, ...]) -> tuple[int, int] | None:
    """The largest block for `bin_counts` that no two devices share."""
    if leaf.axes is None or not axes:
        return None
    sizes = open_axes()

    def size_of(axis: int) -> int:
        parts = math.prod(
            sizes.get(name, 1) for name in mesh_axes(leaf.axes[axis] if leaf.axes else "", PARAMETER_AXES)
        )
        return block_of(leaf.shape[axis] // parts) if leaf.shape[axis] % parts == 0 else 1

    return max(((axis, size_of(axis)) for axis in axes), key=lambda block: block[1])


def _histogram(values: jax.Array, axes: tuple[int, ...], block: tuple[int, int] | None) -> jax.Array:
    whole = max(1, values.size // max(1, math.prod(size for axis, size in enumerate(values.shape) if axis not in axes)))
    return bin_counts(values, axes, block).astype(jnp.float32) / whole
