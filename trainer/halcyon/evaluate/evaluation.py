"""One evaluation: sums on the devices, one division on the host."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from halcyon.data.dataset import Dataset, Rows
from halcyon.data.examples import Examples
from halcyon.data.loader import Batch, global_batch

LossSums = Callable[[Any, Batch], tuple[jax.Array, jax.Array]]
"""(model, one microbatch, whose arrays are [b, L]) -> (weighted sum of nats, sum of weights)."""

_IN_FLIGHT = 2
"""Batches whose sums are not waited for yet: enough to keep the devices busy, few enough to hold little memory."""


class EvaluationSums(NamedTuple):
    """Sums over one batch, scalars on the device."""

    nats: jax.Array
    """Weighted sum of losses: float32."""
    weight: jax.Array
    """Sum of weights: float32."""
    size_bytes: jax.Array
    """Bytes of the predicted tokens: int32."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    loss: float
    """Nats per predicted token."""
    bits_per_byte: float | None
    """Bits per byte of predicted text; None where the predicted tokens stand for no text."""
    tokens: int
    """Predicted tokens, that is, the sum of weights."""
    size_bytes: int
    """Bytes of text that the predicted tokens stand for."""
    sequences: int
    seconds: float
    """How long it took."""


def make_evaluation_step(loss_sums: LossSums, token_bytes: np.ndarray) -> Callable[[Any, Batch], EvaluationSums]:
    """Build the function of one evaluation batch, to be compiled.

    Args:
        loss_sums: The loss of one microbatch, the same as in training.
        token_bytes: Bytes that each token id stands for: int32 [vocabulary].
    """

    def batch_sums(model: Any, batch: Batch) -> EvaluationSums:
        nats, weight = loss_sums(model, batch)
        sizes = jnp.asarray(token_bytes, jnp.int32)[batch.targets]
        return EvaluationSums(nats, weight, jnp.sum(jnp.where(batch.weights > 0, sizes, 0)))

    def evaluation_step(model: Any, batch: Batch) -> EvaluationSums:
        if batch.tokens.shape[0] == 1:
            return batch_sums(model, jax.tree.map(lambda rows: rows[0], batch))
        parts = jax.lax.map(lambda microbatch: batch_sums(model, microbatch), batch)
        return jax.tree.map(jnp.sum, parts)

    return evaluation_step


def evaluate(
    dataset: Dataset,
    sums: Callable[[Batch], EvaluationSums],
    *,
    batches: int,
    batch_size: int,
    microbatches: int,
    sharding: Sharding,
    segments: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Evaluation:
    """Evaluate on the held-out part, the same sequences every time.

    All processes call it at the same step; each makes only its own devices' rows, and all get the same result. The last batch is filled
    with sequences of weight 0.

    Args:
        dataset: Where the held-out examples come from.
        sums: The compiled function of `make_evaluation_step` with the model filled in.
        batches: At most so many batches.
        batch_size: Sequences of a batch, over all devices.
        microbatches: Parts in which a batch is computed; divides ``batch_size``.
        sharding: How an array ``[microbatches, batch_size / microbatches, length]`` lies on the devices.
        segments: Whether batches tell documents apart, the same as in training.
        clock: Seconds, of any origin.

    Raises:
        ValueError: Nothing is held out.
    """
    if dataset.validation_sequences == 0:
        raise ValueError("nothing is held out for evaluation")
    begin = clock()
    shape = (microbatches, batch_size // microbatches, dataset.sequence_length)
    in_flight: deque[EvaluationSums] = deque()
    fetched: list[EvaluationSums] = []
    sequences = 0
    for held_out in dataset.validation_batches(batches, batch_size):
        batch = global_batch(lambda mine, rows=held_out: _padded_rows(dataset, rows, mine), shape, sharding, segments=segments)
        in_flight.append(sums(batch))
        sequences += len(held_out)
        if len(in_flight) > _IN_FLIGHT:
            fetched.append(jax.device_get(in_flight.popleft()))
    fetched.extend(jax.device_get(list(in_flight)))
    nats = math.fsum(float(part.nats) for part in fetched)
    weight = math.fsum(float(part.weight) for part in fetched)
    size_bytes = sum(int(part.size_bytes) for part in fetched)
    return Evaluation(
        loss=nats / weight,
        bits_per_byte=nats / (math.log(2) * size_bytes) if size_bytes else None,
        tokens=round(weight),
        size_bytes=size_bytes,
        sequences=sequences,
        seconds=clock() - begin,
    )


def _padded_rows(dataset: Dataset, rows: Rows, mine: np.ndarray) -> Examples:
    """Examples of some rows of a batch; those past the end of ``rows`` have weight 0."""
    there = mine[mine < len(rows)]
    return dataset.examples(rows[there]).padded_to(len(mine))
