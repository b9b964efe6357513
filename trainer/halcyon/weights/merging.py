"""The parameters of a checkpoint with its adapter added to the weights: what an export, an average and a new run
read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from halcyon.checkpoint.arrays import KEPT_BYTES, AverageArrays, Checkpoint, ModelArrays
from halcyon.checkpoint.layout import Region, whole
from halcyon.models.adapters import adapter_path
from halcyon.models.axes import RANK
from halcyon.models.parameters import STACKED_AXES
from halcyon_api.spec.adapter import LoraSpec

DOWN, UP, MAGNITUDE = "down", "up", "magnitude"


class MergedArrays(ModelArrays):
    """The parameters of the model that the adapted model computes. They have the paths, shapes and types of the frozen
    weights.

    Args:
        checkpoint: A checkpoint of a run with an adapter.
        lora: ``spec.adapter.lora`` of that run.
        average: Merge the average of the adapter into the average of the weights, as an evaluation of the average does.
        kept_bytes: Bytes of chunks that are kept in memory.

    Raises:
        NoAverage: See `AverageArrays`.
    """

    def __init__(
        self, checkpoint: Checkpoint, lora: LoraSpec, *, average: bool = False, kept_bytes: int = KEPT_BYTES
    ) -> None:
        super().__init__(checkpoint, kept_bytes=kept_bytes)
        self.lora = lora
        self._parts = (AverageArrays if average else ModelArrays)(checkpoint, kept_bytes=kept_bytes)
        self.stored = self._parts.leaves
        """The manifest's entries of all arrays, those of the adapter too."""
        owners = {path: adapter_path(path) for path in self.stored if f"{adapter_path(path)}.{DOWN}" in self.stored}
        of_adapter = {f"{owner}.{name}" for owner in owners.values() for name in (DOWN, UP, MAGNITUDE)}
        self.leaves = {path: leaf for path, leaf in self.stored.items() if path not in of_adapter}
        self.adapters = owners
        """The paths of the adapters, by the paths of their weights."""

    def read(self, path: str, region: Region) -> np.ndarray:
        """See `ModelArrays.read`. The sum is computed in float32 and rounded to the type of the weight."""
        if path not in self.adapters:
            return self.read_stored(path, region)
        owner, leaf = self.adapters[path], self.leaves[path]
        down, up = (self._factor(f"{owner}.{name}", leaf.axes or (), region) for name in (DOWN, UP))
        magnitude = f"{owner}.{MAGNITUDE}"
        if magnitude not in self.stored:
            weight = self.read_stored(path, region)
            return _added(weight, leaf.axes or (), down, up, self.lora.scale).astype(weight.dtype)
        # A column's length needs the whole column.
        inputs = {name for name in self.stored[f"{owner}.{DOWN}"].axes or () if name not in (RANK, *STACKED_AXES)}
        axes = leaf.axes or ()
        columns = tuple(
            whole((size,))[0] if name in inputs else part
            for name, size, part in zip(axes, leaf.shape, region, strict=True)
        )
        weight = self.read_stored(path, columns)
        adapted = _added(weight, axes, self._factor(f"{owner}.{DOWN}", axes, columns), up, self.lora.scale)
        over = tuple(at for at, name in enumerate(axes) if name in inputs)
        lengths = np.sqrt(np.sum(adapted * adapted, over, keepdims=True))
        wanted = self._factor(magnitude, axes, columns).values.reshape(lengths.shape)
        cut = tuple(part if name in inputs else slice(None) for name, part in zip(axes, region, strict=True))
        return (adapted * (wanted / lengths))[cut].astype(weight.dtype)

    def read_stored(self, path: str, region: Region) -> np.ndarray:
        """A region of an array before the merge; see `ModelArrays.read`."""
        return self._parts.read(path, region)

    def release(self) -> None:
        """See `ModelArrays.release`."""
        self._parts.release()

    def _factor(self, path: str, axes: Sequence[str], region: Region) -> _Factor:
        """The part of an array of an adapter that belongs to a region of its weight."""
        leaf, parts = self.stored[path], dict(zip(axes, region, strict=True))
        names = tuple(leaf.axes or ())
        own = tuple(parts.get(name, slice(0, size)) for name, size in zip(names, leaf.shape, strict=True))
        return _Factor(names, self.read_stored(path, own).astype(np.float32))


class _Factor:
    """An array of an adapter with the names of its axes."""

    def __init__(self, names: tuple[str, ...], values: np.ndarray) -> None:
        self.names, self.values = names, values

    def sizes(self) -> dict[str, int]:
        return dict(zip(self.names, self.values.shape, strict=True))

    def ordered(self, *groups: Sequence[str]) -> np.ndarray:
        """The array with one dimension for each group of axes."""
        order = [name for group in groups for name in group]
        sizes = self.sizes()
        array = self.values.transpose([self.names.index(name) for name in order])
        return array.reshape([math.prod(sizes[name] for name in group) for group in groups])


def _added(weight: np.ndarray, axes: Sequence[str], down: _Factor, up: _Factor, scale: float) -> np.ndarray:
    """``weight + scale down up`` in float32, with the axes of the weight."""
    stacked = [name for name in axes if name in STACKED_AXES]
    inputs = [name for name in axes if name in down.names and name not in stacked]
    outputs = [name for name in axes if name in up.names and name not in stacked]
    product = down.ordered(stacked, inputs, [RANK]) @ up.ordered(stacked, [RANK], outputs)
    sizes = dict(zip(axes, weight.shape, strict=True))
    order = [*stacked, *inputs, *outputs]
    aligned = product.reshape([sizes[name] for name in order]).transpose([order.index(name) for name in axes])
    return weight.astype(jnp.float32) + np.float32(scale) * aligned
