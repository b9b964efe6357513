"""The results of an evaluation by source and by tag, and their averages. Pure.

The micro average of several sources divides the sum of their nats by the sum of their tokens (or bytes), so a large
source counts more. The macro average is the mean of the sources' own results, so each source counts the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from halcyon.telemetry.evaluation import Evaluation, total
from halcyon_api.spec.evaluation import BestSpec


@dataclass(frozen=True)
class Averages:
    """The averages over several sources.

    Attributes:
        micro: The sums of all sources together.
        macro_loss: Mean loss of the sources, nats per token.
        macro_bits_per_byte: Mean bits per byte of the sources; None if a source has none.
    """

    micro: Evaluation
    macro_loss: float
    macro_bits_per_byte: float | None


def averages(parts: Iterable[Evaluation]) -> Averages:
    """The averages over the evaluations of sources, of which there is at least one."""
    found = tuple(parts)
    bits = [one.bits_per_byte for one in found]
    known = [one for one in bits if one is not None]
    return Averages(
        micro=total(found),
        macro_loss=math.fsum(one.loss for one in found) / len(found),
        macro_bits_per_byte=math.fsum(known) / len(known) if len(known) == len(bits) else None,
    )


@dataclass(frozen=True)
class EvaluatedSets:
    """The results of one evaluation while a run trains.

    Attributes:
        whole: All held-out sequences that were evaluated.
        sources: Each source alone, by name; empty without ``evaluation.bySource``.
        tags: Names of the sources of each tag that has any.
    """

    whole: Evaluation
    sources: Mapping[str, Evaluation] = field(default_factory=dict[str, Evaluation])
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @property
    def all_sources(self) -> Averages | None:
        """The averages over all sources; None without results by source."""
        return averages(self.sources.values()) if self.sources else None

    @property
    def by_tag(self) -> dict[str, Averages]:
        """The averages of each tag."""
        return {tag: averages(self.sources[name] for name in names) for tag, names in self.tags.items()}

    def value(self, best: BestSpec) -> float:
        """The number by which checkpoints are compared; NaN if the evaluation does not have it."""
        if not self.sources:
            return _of(best, self.whole.loss, self.whole.bits_per_byte)
        names = list(self.sources) if best.of is None else self.tags.get(best.of, (best.of,))
        parts = [self.sources[name] for name in names if name in self.sources]
        if not parts:
            return math.nan
        found = averages(parts)
        if best.average == "macro":
            return _of(best, found.macro_loss, found.macro_bits_per_byte)
        return _of(best, found.micro.loss, found.micro.bits_per_byte)


def _of(best: BestSpec, loss: float, bits_per_byte: float | None) -> float:
    value = loss if best.metric == "loss" else bits_per_byte
    return math.nan if value is None else value
