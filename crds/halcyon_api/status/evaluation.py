"""The result of an evaluation: sums that are divided once.

Nats, weights and bytes are summed over all batches and divided once. So batch size, padding and the number of processes
change the result only by rounding. Bits per byte, ``nats / (ln 2 x bytes of the predicted tokens)``, can be compared
between tokenizers: special tokens add nats like all other tokens, but no bytes.

The micro average of several sources divides the sum of their nats by the sum of their tokens (or bytes), so a large
source counts more. The macro average is the mean of the sources' own results, so each source counts the same.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from halcyon_api.spec.evaluation import BestSpec
from halcyon_api.status.progress import Evaluated, SourceEvaluation, finite


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
    right: float = math.nan
    """With ``objective.classify``: the number of texts whose label has the greatest logit. With ``contrastive``: of
    queries whose text is the nearest of its batch. NaN: other objectives."""

    @property
    def pass_at(self) -> dict[int, float]:
        """The mean over the prompts of pass@k, by k."""
        return {k: total / self.sequences for k, total in self.passes.items()}

    @property
    def loss(self) -> float:
        """Nats per predicted token; NaN if the sum of weights is 0."""
        return self.nats / self.weight if self.weight else math.nan

    @property
    def accuracy(self) -> float:
        """Share of the right answers; NaN for an objective without them."""
        return self.right / self.weight if self.weight else math.nan

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of predicted text; None if the predicted tokens have no bytes."""
        return self.nats / (math.log(2) * self.size_bytes) if self.size_bytes else None

    @property
    def tokens(self) -> int:
        """Number of predicted tokens: the sum of weights, rounded."""
        return round(self.weight)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the event ``evaluation``."""
        names = ("loss", "bits_per_byte", "tokens", "sequences", "seconds")
        passes = {str(k): rate for k, rate in self.pass_at.items()}
        answers: dict[str, Any] = {"reward": -self.loss, "pass_at": passes} if self.passes else {}
        answers |= {} if math.isnan(self.accuracy) else {"accuracy": self.accuracy}
        return answers | {name: getattr(self, name) for name in names}


def total(parts: Iterable[Evaluation]) -> Evaluation:
    """Combine evaluations: add their sums."""
    parts = tuple(parts)
    return Evaluation(
        nats=math.fsum(part.nats for part in parts),
        weight=math.fsum(part.weight for part in parts),
        size_bytes=sum(part.size_bytes for part in parts),
        sequences=sum(part.sequences for part in parts),
        seconds=math.fsum(part.seconds for part in parts),
        right=math.fsum(part.right for part in parts),
        passes={k: math.fsum(part.passes.get(k, 0.0) for part in parts) for k in (parts[0].passes if parts else ())},
    )


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

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of the event ``evaluation`` for several sources."""
        macro = {"macro_loss": self.macro_loss, "macro_bits_per_byte": self.macro_bits_per_byte}
        return {**self.micro.fields, **macro}


def averages(parts: Iterable[Evaluation]) -> Averages:
    """The averages over the evaluations of sources, of which there is at least one."""
    evaluations = tuple(parts)
    bits = [one.bits_per_byte for one in evaluations]
    known = [one for one in bits if one is not None]
    return Averages(
        micro=total(evaluations),
        macro_loss=math.fsum(one.loss for one in evaluations) / len(evaluations),
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

    def events(self, average: Evaluation | None = None) -> Iterator[tuple[str, object, dict[str, Any]]]:
        """The events of the evaluation: of each source and tag if there are results of them, and of all together.

        Args:
            average: The evaluation of the average of the parameters on all sources together, if the run has one.

        Returns:
            The name of each, what it is made from, and its fields without the step.
        """
        for source, evaluation in self.sources.items():
            yield "evaluation", None, {"source": source, **evaluation.fields}
        for tag, found in self.by_tag.items():
            yield "evaluation", None, {"tag": tag, **found.fields}
        if (found := self.all_sources) is not None and len(self.sources) > 1:
            yield "macroEvaluation", None, {"loss": found.macro_loss, "bits_per_byte": found.macro_bits_per_byte}
        of_average = {f"average_{name}": average and getattr(average, name) for name in ("loss", "bits_per_byte")}
        yield "evaluation", (self.whole, average), {**self.whole.fields, **of_average}

    def value(self, best: BestSpec) -> float:
        """The number by which checkpoints are compared; NaN if the evaluation does not have it."""
        names = self.sources if best.of is None else self.tags.get(best.of, (best.of,))
        parts = [self.sources[name] for name in names if name in self.sources] if self.sources else [self.whole]
        if not parts:
            return math.nan
        averaged = parts if best.average == "macro" else [total(parts)]
        name = "bits_per_byte" if best.metric == "bitsPerByte" else best.metric
        values = [getattr(one, name) for one in averaged]
        return math.nan if None in values else math.fsum(values) / len(values)


def with_source(found: Evaluated, source: str, evaluation: Evaluation) -> Evaluated:
    """Add the result of a source to `found`."""
    entry = SourceEvaluation(
        source=source,
        loss=finite(evaluation.loss),
        bits_per_byte=finite(evaluation.bits_per_byte),
        tokens=evaluation.tokens,
        sequences=evaluation.sequences,
    )
    return found.but(sources=[*found.sources, entry])
