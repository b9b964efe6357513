"""Watches parameters, gradients and updates: norm, RMS and histogram of each array, layer by layer.

The watched step is a second compiled program, which computes these numbers beside the step, on the arrays that the step has in any case. So
the steps between pay nothing. The number of a step decides which program it uses, so a resumed run uses the same ones. Each number is a
reduction over one array, and only the reduced numbers leave the device.

A name is ``WHAT/STATISTIC/PARAMETER``, such as ``gradients/rms/blocks.mlp.up.weight``. Its value has one number for each layer, or is a
scalar for a parameter that no layers share; a histogram has its bins as its last axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from halcyon.checkpoint.layout import flatten
from halcyon.models.axes import LAYERS
from halcyon_api.spec.watch import WatchSpec

HISTOGRAM_EDGES = tuple(4.0**exponent for exponent in range(-16, 3))
"""Lower edges of the bins of magnitudes but the first, which begins at 0."""


def watched(spec: WatchSpec, arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The numbers of a watched step. For use inside ``jax.jit``.

    - ``norm``: the square root of the sum of squares; ``rms``: of the mean of squares.
    - ``histogram``: the share of elements in each bin of magnitudes, float32 [bins]. Elements that are not a number are in no bin.
    - ``updates/ratio``: the norm of the update divided by the norm of the parameter before it; 0 for a parameter of zeros.

    Args:
        spec: ``spec.telemetry.watch`` of the run.
        arrays: Trees with the structure of the model, by `halcyon_api.spec.watch.Watched`; ``parameters`` must be there.
    """
    found: dict[str, jax.Array] = {}
    for what in spec.what:
        for path, values, axes in _leaves(arrays[what]):
            squares = jnp.sum(jnp.square(values), axes)
            found[f"{what}/norm/{path}"] = jnp.sqrt(squares)
            found[f"{what}/rms/{path}"] = jnp.sqrt(squares / max(1, values.size // max(1, squares.size)))
            if spec.histograms:
                found[f"{what}/histogram/{path}"] = _histogram(values, axes)
    if "updates" in spec.what:
        for path, values, axes in _leaves(arrays["parameters"]):
            weight = jnp.sqrt(jnp.sum(jnp.square(values), axes))
            update = found[f"updates/norm/{path}"]
            found[f"updates/ratio/{path}"] = jnp.where(weight > 0, update / jnp.where(weight > 0, weight, 1.0), 0.0)
    return found


def _leaves(tree: Any) -> Iterator[tuple[str, jax.Array, tuple[int, ...]]]:
    """The path, the values in float32 and the reduced axes of each array: all axes but that of the layers."""
    for leaf in flatten(tree):
        axes = tuple(number for number in range(len(leaf.shape)) if leaf.axes is None or leaf.axes[number] != LAYERS)
        yield leaf.path, leaf.value.astype(jnp.float32), axes


def _histogram(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Counts by comparisons: a scatter into bins would be slow on an accelerator."""
    size = jnp.abs(values)
    reached = [jnp.mean(size >= edge, axes, dtype=jnp.float32) for edge in (0.0, *HISTOGRAM_EDGES)]
    return jnp.stack([*(low - high for low, high in itertools.pairwise(reached)), reached[-1]], axis=-1)
