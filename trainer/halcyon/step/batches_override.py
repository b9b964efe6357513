"""Batches that the caller of `halcyon.train` gives."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from halcyon.data.examples import Batch
from halcyon.data.loader import padded_rows
from halcyon.host.errors import BadConfiguration


@dataclass(frozen=True)
class Rows:
    """The shapes of given batches.

    Attributes:
        shapes: The shape of a row of each array, by name.
        types: Their types.
        batch_size: Rows of a batch.
        length: Tokens of a row, for the speed: the second axis of the array ``tokens``; 1 without such an array.
    """

    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, np.dtype]
    batch_size: int
    length: int

    @staticmethod
    def of(batch: Any) -> Rows:
        """The shapes of a batch.

        Raises:
            BadConfiguration: It is no batch.
        """
        if not isinstance(batch, Mapping) or not batch:
            raise BadConfiguration(
                f"batches: a batch is a {type(batch).__name__}; give dictionaries of arrays by name, whose first axis "
                "is the rows"
            )
        shapes = {name: np.shape(array) for name, array in batch.items()}
        counts = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
        if min(counts.values()) < 1 or len(set(counts.values())) > 1:
            shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise BadConfiguration(
                f"batches: the first axis of each array is the rows of the batch, but one has {shown}"
            )
        tokens = shapes.get("tokens", ())
        types = {
            name: np.dtype(jax.dtypes.canonicalize_dtype(np.asarray(array).dtype)) for name, array in batch.items()
        }
        rows = {name: shape[1:] for name, shape in shapes.items()}
        return Rows(rows, types, next(iter(counts.values())), tokens[1] if len(tokens) > 1 else 1)


class Batches:
    """Given batches by step.

    Args:
        given: Batches in the order of the steps: a sequence, whose item N is the batch of the step N + 1, or an
            iterable, which begins with that of the first step.
    """

    def __init__(self, given: Any) -> None:
        indexed = hasattr(given, "__getitem__")
        if isinstance(given, Mapping) or not (indexed or hasattr(given, "__iter__")):
            raise BadConfiguration(
                f"batches: it is a {type(given).__name__}; give a sequence or an iterator of batches, or a function "
                "that makes it"
            )
        self._items = given if indexed else None
        self._iterator: Iterator[Any] = iter(()) if indexed else iter(given)
        self._drawn, self._newest = 0, None
        first: Any = self.at(0)
        self.rows, self.digest = Rows.of(first), _digest(first)
        """SHA-256 of the first batch."""

    def at(self, step: int) -> Any:
        """The batch of a step, counted from 0.

        Raises:
            BadConfiguration: There are no more batches, or an iterator would have to go back.
        """
        if step < self._drawn - 1 and self._items is None:
            raise BadConfiguration(
                f"batches: an iterator cannot go back from batch {self._drawn} to batch {step + 1}; give a sequence"
            )
        try:
            if self._items is not None:
                return self._items[step]
            while self._drawn <= step:
                self._newest = next(self._iterator)
                self._drawn += 1
        except (IndexError, StopIteration):
            raise BadConfiguration(
                f"batches: there is no batch for step {step + 1}; give more batches, or less spec.trainer.steps"
            ) from None
        return self._newest

    def checked(self, step: int) -> Mapping[str, np.ndarray]:
        """The arrays of a step.

        Raises:
            BadConfiguration: They differ from the first batch in names, shapes or types.
        """
        batch = self.at(step)
        if (found := Rows.of(batch)) != self.rows:
            raise BadConfiguration(
                f"batches: the batch of step {step + 1} has {_shown(found)}, and the first one {_shown(self.rows)}; "
                "give all batches the same arrays"
            )
        return {name: np.asarray(batch[name], self.rows.types[name]) for name in self.rows.shapes}


def _shown(rows: Rows) -> str:
    return ", ".join(f"{name} {rows.types[name]} {[rows.batch_size, *shape]}" for name, shape in rows.shapes.items())


def _digest(batch: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(batch):
        array = np.asarray(batch[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@dataclass(eq=False)
class BatchesOverride:
    """The source of the given batches; see `halcyon.step.batch_source.BatchSource`.

    Args:
        batches: The batches.
        microbatches: Parts of a batch.
        sharding: Sharding of arrays [microbatches, rows, …].
    """

    batches: Batches
    microbatches: int
    sharding: jax.sharding.Sharding

    def __post_init__(self) -> None:
        rows = self.batches.rows.batch_size
        whole = self.microbatches * padded_rows(rows, self.microbatches, self.sharding)
        if whole != rows:
            raise BadConfiguration(
                f"batches: the devices and trainer.microbatches do not divide {rows} rows, and given batches are not "
                f"padded; give {whole}"
            )
        self.last_wait_seconds = 0.0

    def batch(self, step: int, state: Any) -> Batch:
        """See `halcyon.step.batch_source.BatchSource`."""
        del state
        began = time.perf_counter()
        arrays = self.batches.checked(step)
        self.last_wait_seconds = time.perf_counter() - began
        return {
            name: jax.device_put(array.reshape(self.microbatches, -1, *array.shape[1:]), self.sharding)
            for name, array in arrays.items()
        }

    def close(self) -> None:
        """Do nothing."""
