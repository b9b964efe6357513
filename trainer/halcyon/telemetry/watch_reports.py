"""Reports of watched steps (``spec.telemetry.watch``): to the log, to the metrics, and to receivers of all numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from halcyon.telemetry.observation import WatchedParameter
from halcyon.telemetry.reports import Reports

if TYPE_CHECKING:
    import numpy as np

MOST_PARAMETERS = 256
"""Parameters that the metrics show. A custom model may have any number of arrays, but the number of time series is bounded."""
_HISTOGRAM = "histogram"


class WatchReports(Reports):
    """The reports of watched steps."""

    def watched(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Report the numbers of a watched step.

        The log has all of them but the histograms. A class that overrides this method receives all of them.

        Args:
            step: Steps done, including this one.
            arrays: Float32 arrays by ``WHAT/STATISTIC/PARAMETER``, as `halcyon.training.watch.watched` names them.
        """
        groups: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        for name, values in arrays.items():
            what, statistic, path = name.split("/", 2)
            groups.setdefault((what, statistic), {})[path] = values
        with self._lock:
            self._run.facts.watched = tuple(
                WatchedParameter(what, statistic, path, _over_layers(statistic, values))
                for (what, statistic), found in groups.items()
                if statistic in ("norm", "ratio")
                for path, values in list(found.items())[:MOST_PARAMETERS]
            )
        for (what, statistic), found in groups.items():
            if statistic != _HISTOGRAM:
                rows = [values.tolist() for values in found.values()]
                self._event("watch", step=step, of=what, statistic=statistic, parameters=list(found), values=rows)


def _over_layers(statistic: str, values: np.ndarray) -> float:
    """One number for all layers: the norm of the whole array, or the greatest ratio."""
    return float((values.astype("float64") ** 2).sum() ** 0.5) if statistic == "norm" else float(values.max())
