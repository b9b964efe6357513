"""Which of several caches is built next, where a run trains on them meanwhile."""

from __future__ import annotations

from collections.abc import Mapping


def next_source(tokens: Mapping[str, int], weights: Mapping[str, float], portions: Mapping[str, int]) -> str:
    """The source whose text will be used up first.

    Args:
        tokens: Tokens that each unfinished source has.
        weights: Shares in which sources are mixed; one that is in no mixture counts as the least that is.
        portions: In portions of how many tokens a source can be used.
    """
    least = min((weight for weight in weights.values() if weight > 0), default=1.0)

    def lasts(name: str) -> tuple[float, float]:
        weight = weights[name] or least
        return tokens[name] // portions[name] * portions[name] / weight, tokens[name] / weight

    return min(tokens, key=lasts)
