"""Which of several caches is built next, where a run trains on them meanwhile."""

from __future__ import annotations

from collections.abc import Mapping


def next_source(tokens: Mapping[str, int], weights: Mapping[str, float], portions: Mapping[str, int]) -> str:
    """The source whose text will be used up first.

    Args:
        tokens: Tokens that each unfinished source has.
        weights: Shares in which sources are mixed, above 0.
        portions: In portions of how many tokens a source can be used.
    """

    def lasts(name: str) -> tuple[float, float]:
        return tokens[name] // portions[name] * portions[name] / weights[name], tokens[name] / weights[name]

    return min(tokens, key=lasts)
