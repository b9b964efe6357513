"""The numbers of a watched step (``telemetry.watch``): for the log in groups, for the metrics one of each parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MOST_PARAMETERS = 256
"""Parameters that the metrics show.

A custom model may have any number of arrays, but the number of time series is bounded.
"""


@dataclass(frozen=True)
class WatchedParameter:
    """A number of one parameter in a watched step, over all its layers."""

    what: str
    """`parameters`, `gradients`, `updates` or `activations`."""
    statistic: str
    """`norm`, or `ratio` of update and parameter."""
    path: str
    value: float


Groups = Mapping[tuple[str, str], Mapping[str, "np.ndarray"]]
"""The arrays of a watched step by path, for each (what, statistic)."""


def watched_groups(arrays: Mapping[str, np.ndarray]) -> Groups:
    """The arrays of a watched step by ``WHAT/STATISTIC/PARAMETER``, grouped."""
    groups: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, values in arrays.items():
        what, statistic, path = name.split("/", 2)
        groups.setdefault((what, statistic), {})[path] = values
    return groups


def watched_parameters(groups: Groups) -> tuple[WatchedParameter, ...]:
    """The numbers that the metrics show: the norm of the whole array, or the greatest ratio of a layer."""
    return tuple(
        WatchedParameter(
            what,
            statistic,
            path,
            float((values.astype("float64") ** 2).sum() ** 0.5 if statistic == "norm" else values.max()),
        )
        for (what, statistic), found in groups.items()
        if statistic in ("norm", "ratio")
        for path, values in list(found.items())[:MOST_PARAMETERS]
    )
