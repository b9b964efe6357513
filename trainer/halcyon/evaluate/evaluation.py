"""What an evaluation found: sums, divided once.

Nats, weights and bytes are summed over all batches and divided once, so neither the batch size nor padding nor the number of processes
changes the result beyond rounding. Bits per byte, ``nats / (ln 2 x bytes of the predicted tokens)``, can be compared between tokenizers;
special tokens cost nats like all others and stand for no bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    nats: float
    """Weighted sum of losses."""
    weight: float
    """Sum of weights."""
    size_bytes: int
    """Bytes of text that the predicted tokens stand for."""
    sequences: int
    seconds: float
    """How long it took."""

    @property
    def loss(self) -> float:
        """Nats per predicted token; no number where none counted."""
        return self.nats / self.weight if self.weight else math.nan

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of predicted text; None where the predicted tokens stand for no text."""
        return self.nats / (math.log(2) * self.size_bytes) if self.size_bytes else None

    @property
    def tokens(self) -> int:
        """Predicted tokens, that is, the sum of weights."""
        return round(self.weight)


def total(parts: Iterable[Evaluation]) -> Evaluation:
    """Several evaluations as one: sums are added, and divided once."""
    parts = tuple(parts)
    return Evaluation(
        nats=math.fsum(part.nats for part in parts),
        weight=math.fsum(part.weight for part in parts),
        size_bytes=sum(part.size_bytes for part in parts),
        sequences=sum(part.sequences for part in parts),
        seconds=math.fsum(part.seconds for part in parts),
    )
