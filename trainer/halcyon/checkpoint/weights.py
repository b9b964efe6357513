"""Reads regions of the arrays of a checkpoint, without the whole arrays in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np

from halcyon.checkpoint.comparison import Checkpoint
from halcyon.checkpoint.layout import Region, chunk_region, chunks_of
from halcyon_api.checkpoint_documents import CommittedStep, ManifestLeaf

KEPT_BYTES = 1 << 30
"""Chunks that are kept in memory, because the regions of neighbouring layers lie in the same chunk."""
MODEL_PREFIX = "model."
"""How the paths of a model's parameters begin in a checkpoint."""
EMA_PREFIX, SNAPSHOTS_PREFIX, COUNT_PATH = "average.model.", "average.snapshots.", "average.count"
"""Paths of an average of the parameters in a checkpoint (`halcyon.optim.average`)."""


class ModelArrays:
    """The parameters of the model in a checkpoint, by their paths in the model. Several threads may read.

    Args:
        checkpoint: The checkpoint.
        kept_bytes: Bytes of chunks that are kept in memory.
    """

    def __init__(self, checkpoint: Checkpoint, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._checkpoint, self._kept_bytes = checkpoint, kept_bytes
        self.leaves: dict[str, ManifestLeaf] = below(checkpoint, MODEL_PREFIX)
        """The manifest's entries of the parameters."""
        self._entries = self.leaves
        self._chunks: OrderedDict[tuple[str, tuple[int, ...]], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def entry(self) -> CommittedStep:
        """The checkpoint's entry in HEAD."""
        return self._checkpoint.entry

    def read(self, path: str, region: Region) -> np.ndarray:
        """A region of a parameter; see `read_stored`."""
        return self.read_stored(path, region)

    def read_stored(self, path: str, region: Region) -> np.ndarray:
        """A region of an array of the checkpoint, every byte verified. Rows beyond the array, of a vocabulary with more
        padding, are zero.

        Raises:
            Damaged: A file is damaged.
            StoreFailure: The store did not answer.
        """
        return self._read(self._entries[path], region)

    def _read(self, leaf: ManifestLeaf, region: Region) -> np.ndarray:
        result = np.zeros([part.stop - part.start for part in region], jnp.dtype(leaf.dtype))
        inside = tuple(
            slice(min(part.start, size), min(part.stop, size)) for part, size in zip(region, leaf.shape, strict=True)
        )
        if any(part.start == part.stop for part in inside):
            return result
        for indices in chunks_of(leaf, inside):
            whole = chunk_region(leaf, indices)
            both = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(inside, whole, strict=True)]
            there = tuple(
                slice(one.start - own.start, one.stop - own.start) for one, own in zip(both, whole, strict=True)
            )
            here = tuple(
                slice(one.start - own.start, one.stop - own.start) for one, own in zip(both, region, strict=True)
            )
            result[here] = self._chunk(leaf, indices)[there]
        return result

    def release(self) -> None:
        """Drop the chunks that are kept in memory."""
        with self._lock:
            self._chunks.clear()
            self._bytes = 0

    def _chunk(self, leaf: ManifestLeaf, indices: tuple[int, ...]) -> np.ndarray:
        key = leaf.path, indices
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
                return self._chunks[key]
        chunk = self._checkpoint.chunk(leaf, indices)
        with self._lock:
            if key not in self._chunks:
                self._chunks[key] = chunk
                self._bytes += chunk.nbytes
                while self._bytes > self._kept_bytes and len(self._chunks) > 1:
                    self._bytes -= self._chunks.popitem(last=False)[1].nbytes
        return chunk


def below(checkpoint: Checkpoint, prefix: str) -> dict[str, ManifestLeaf]:
    """The arrays whose paths begin with the prefix, by the rest of their paths."""
    return {path.removeprefix(prefix): leaf for path, leaf in checkpoint.leaves.items() if path.startswith(prefix)}


class AverageArrays(ModelArrays):
    """The average of the parameters in a checkpoint, in the place of the parameters.

    Raises:
        NoAverage: The checkpoint has none, or its mean has no model yet.
        Damaged: A file is damaged.
        StoreFailure: The store did not answer.
    """

    def __init__(self, checkpoint: Checkpoint, *, kept_bytes: int = KEPT_BYTES) -> None:
        super().__init__(checkpoint, kept_bytes=kept_bytes)
        self._snapshots = below(checkpoint, SNAPSHOTS_PREFIX)
        if COUNT_PATH not in checkpoint.leaves:
            raise NoAverage("it has no average of the parameters, because its run had no spec.average")
        count = int(checkpoint.chunk(checkpoint.leaves[COUNT_PATH], ()))
        if not self._snapshots:
            self.leaves = self._entries = below(checkpoint, EMA_PREFIX)
        elif count == 0:
            raise NoAverage("its average has no model yet, because spec.average.lastK.everySteps steps are not done")
        self._count = count

    def read(self, path: str, region: Region) -> np.ndarray:
        """A region of the average of a parameter. The mean of the last models is a float32 sum, divided once."""
        if not self._snapshots:
            return super().read(path, region)
        leaf = self._snapshots[path]
        held = min(self._count, leaf.shape[0])
        total = np.zeros([part.stop - part.start for part in region], np.float32)
        for number in range(held):
            total += self._read(leaf, (slice(number, number + 1), *region))[0].astype(np.float32)
        return (total / np.float32(held)).astype(jnp.dtype(leaf.dtype))


class NoAverage(ValueError):
    """A checkpoint has no average of the parameters; the message says why."""
