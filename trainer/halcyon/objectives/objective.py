"""The interface of an objective.

Losses are weighted sums that are divided once, by the weight of the whole batch. So the loss is that of the full batch, whatever the
microbatches, the packing and the padding; a mean of means would differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from halcyon.data.examples import Batch

ROW_SEEDS = "row_seeds"
"""An array of a batch beside its fields, in a step with dropout: a random number for each row, uint32 [batch]."""


class Sums(NamedTuple):
    """Sums over a batch, or a part of one; float32, scalars unless stated otherwise."""

    loss: jax.Array
    """The weighted sum of losses, to be minimised."""
    weight: jax.Array
    """The sum of the weights."""
    metrics: dict[str, jax.Array] = {}  # noqa: RUF012 - a NamedTuple's default, never changed
    """Further weighted sums by name, scalars or arrays [layer, expert]. Each is divided by `weight` and reported under its name."""
    penalty: jax.Array | None = None
    """A weighted sum that is minimised together with the losses but is no part of the reported loss, such as that of routers."""


class Objective(Protocol):
    """A loss that a training minimises."""

    @property
    def fields(self) -> Mapping[str, np.dtype]:
        """Names and types of the arrays of a batch. The names are those of `halcyon.data.examples.Examples`."""
        ...

    def __call__(self, model: Any, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        """The sums of one microbatch, differentiable with respect to the model.

        Args:
            model: The model that is trained.
            batch: Arrays [batch, position].
            frozen: Models that are not trained, such as a reference model; None if the run has none.
            key: Random key of this microbatch, the same on all devices; None: without randomness, as in an evaluation.
        """
        ...
