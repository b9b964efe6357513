"""What an objective is to the rest of the trainer.

Losses are weighted sums that are divided once, by the weight of the whole batch: microbatches, packing and padding then give the full
batch's loss, where a mean of means would not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from halcyon.data.examples import Batch


class Sums(NamedTuple):
    """Sums over a batch, or a part of one; float32 scalars."""

    loss: jax.Array
    """What is minimised: the weighted sum of losses."""
    weight: jax.Array
    """The sum of the weights."""
    metrics: dict[str, jax.Array] = {}  # noqa: RUF012 - a NamedTuple's default, never changed
    """Further weighted sums by name. Each is divided by the weight and reported under its name."""


class Objective(Protocol):
    """A loss that a training minimises."""

    @property
    def fields(self) -> Mapping[str, np.dtype]:
        """Names and types of the arrays of a batch. The names are those of `halcyon.data.examples.Examples`."""
        ...

    def __call__(self, model: Any, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        """The sums of one microbatch, to be differentiated by the model.

        Args:
            model: The model that is trained.
            batch: Arrays [batch, position].
            frozen: Models that are not trained, such as a reference; None where the run has none.
            key: Randomness of this microbatch, the same on all devices; None where nothing may be random, such as in an evaluation.
        """
        ...
