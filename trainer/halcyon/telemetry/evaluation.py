"""The result of an evaluation: sums that are divided once.

Nats, weights and bytes are summed over all batches and divided once. So batch size, padding and the number of processes
change the result only by rounding. Bits per byte, ``nats / (ln 2 x bytes of the predicted tokens)``, can be compared
between tokenizers: special tokens add nats like all other tokens, but no bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Evaluation:
    """The sums of one evaluation."""

    nats: float
    """Weighted sum of losses."""
    weight: float
    """Sum of weights."""
    size_bytes: int
    """Bytes of text that the predicted tokens stand for."""
    sequences: int
    seconds: float
    """Duration of the evaluation."""
    passes: Mapping[int, float] = field(default_factory=dict[int, float])
    """With ``objective.policy``: the sum over the prompts of pass@k, by k. The loss is then minus the mean reward.
    Empty: no answers were sampled."""

    @property
    def pass_at(self) -> dict[int, float]:
        """The mean over the prompts of pass@k, by k."""
        return {k: total / self.sequences for k, total in self.passes.items()}

    @property
    def loss(self) -> float:
        """Nats per predicted token; NaN if the sum of weights is 0."""
        return self.nats / self.weight if self.weight else math.nan

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of predicted text; None if the predicted tokens have no bytes."""
        return self.nats / (math.log(2) * self.size_bytes) if self.size_bytes else None

    @property
    def tokens(self) -> int:
        """Number of predicted tokens: the sum of weights, rounded."""
        return round(self.weight)


def total(parts: Iterable[Evaluation]) -> Evaluation:
    """Combine evaluations: add their sums."""
    parts = tuple(parts)
    return Evaluation(
        nats=math.fsum(part.nats for part in parts),
        weight=math.fsum(part.weight for part in parts),
        size_bytes=sum(part.size_bytes for part in parts),
        sequences=sum(part.sequences for part in parts),
        seconds=math.fsum(part.seconds for part in parts),
        passes={k: math.fsum(part.passes.get(k, 0.0) for part in parts) for k in (parts[0].passes if parts else ())},
    )
