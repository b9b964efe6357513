"""Decides which runs may begin before their token caches are complete.

A batch is a function of the run document and the corpus, so it must not depend on how much of the corpus is tokenized
when the batch is made. If every number that decides a batch comes from the document or from earlier text, the batch can
be made as soon as that text is cached. Six features need the totals and so the complete cache: a shuffle of the whole
source, layouts that choose among documents, shares by size, an end of the data, a rehearsal of a longer run, and an
objective that packs conversations.
"""

from halcyon_api.spec.data import DataSpec, OrderSpec
from halcyon_api.training_run import TrainingRunSpec


def is_local(order: OrderSpec) -> bool:
    """Whether the first sequences of an order come from the beginning of the text, independent of later text."""
    return order.sequential is not None or order.windows is not None


def streams(data: DataSpec) -> bool:
    """Whether training may begin while the token caches are still being built.

    The conditions: the order is local; every source is concatenated; an exhausted source begins again; all sources have
    weights, or there is only one source; and no longer run is rehearsed.
    """
    return (
        is_local(data.order)
        and all(source.layout.concatenate is not None for source in data.sources)
        and (len(data.sources) == 1 or all(source.weight is not None for source in data.sources))
        and data.mixture.stop == "restart"
        and data.mixture.simulate_tokens is None
    )


def run_streams(spec: TrainingRunSpec) -> bool:
    """Whether training may begin while the token caches are still being built: `streams`, and the objective packs no
    conversations.
    """
    return streams(spec.data) and spec.objective.kind in ("nextToken", "maskedToken")


def positive_weights(data: DataSpec) -> dict[str, float]:
    """The weights of the sources.

    A source without a positive weight gets the smallest positive one (1 if there is none).
    """
    weights = {source.name: source.weight or 0.0 for source in data.sources}
    least = min((weight for weight in weights.values() if weight > 0), default=1.0)
    return {name: weight or least for name, weight in weights.items()}
