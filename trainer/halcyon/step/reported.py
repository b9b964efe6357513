"""The metrics of an objective in the form in which they are reported."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from halcyon.telemetry import ReportedMetric


def reported_metrics(metrics: Mapping[str, jax.typing.ArrayLike]) -> dict[str, ReportedMetric]:
    """The metrics of a step.

    An array [layer, expert] becomes two metrics with one number for each layer: ``NAME_max`` and ``NAME_min``, over the
    experts.

    Args:
        metrics: Scalars and such arrays, by name.
    """
    found: dict[str, ReportedMetric] = {}
    for name, value in metrics.items():
        if np.ndim(value) == 0:
            found[name] = float(np.asarray(value))
        else:
            found[f"{name}_max"] = tuple(float(one) for one in np.max(np.asarray(value), axis=-1))
            found[f"{name}_min"] = tuple(float(one) for one in np.min(np.asarray(value), axis=-1))
    return found
