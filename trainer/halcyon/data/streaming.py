"""Which runs may begin before their token caches are whole.

A batch is a function of the run document and the corpus, so it must not tell how much of the corpus happened to be tokenized when it was
made. Where every number that decides a batch comes from the document or from text that stands before it, the batch can be made as soon as
that text is there. A shuffle of everything, layouts that choose among documents, shares by size, an end of the data, and a rehearsal all
need the totals.
"""

from __future__ import annotations

from halcyon_api.spec.data import DataSpec, OrderSpec


def is_local(order: OrderSpec) -> bool:
    """Whether an order's first sequences come from the beginning of the text, whatever comes after it."""
    return order.sequential is not None or order.windows is not None


def streams(data: DataSpec) -> bool:
    """Whether training may begin while the token caches are still being built.

    The order is local; every source is concatenated; an exhausted source begins anew; the sources have weights (or there is but one); and
    no longer run is rehearsed.
    """
    return (
        is_local(data.order)
        and all(source.layout.concatenate is not None for source in data.sources)
        and (len(data.sources) == 1 or all(source.weight is not None for source in data.sources))
        and data.mixture.stop == "restart"
        and data.mixture.simulate_tokens is None
    )


def positive_weights(data: DataSpec) -> dict[str, float]:
    """The sources' weights; one that is in no mixture from the start counts as the least that is."""
    weights = {source.name: source.weight or 0.0 for source in data.sources}
    least = min((weight for weight in weights.values() if weight > 0), default=1.0)
    return {name: weight or least for name, weight in weights.items()}
